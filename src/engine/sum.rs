//! A branch as the sum of its chunks.

use super::Branch;
use crate::kernels::Cpu;
use crate::kernels::accumulate::{Accumulator, ChunkSum};
use crate::types::DECODE_BATCH;

/// A branch in the making.
pub enum BranchSum {
    /// Chunks are added in order on top of the bias.
    Whole(Accumulator),
    /// Chunks are kept one by one: `[chunks, N, hidden]`.
    Partials(Vec<f32>),
}

impl BranchSum {
    /// Of `count` rows of `width`.
    pub fn new(partial: bool, count: usize, width: usize, bias: Option<&[f32]>) -> BranchSum {
        match partial {
            true => BranchSum::Partials(vec![]),
            false => BranchSum::Whole(Accumulator::new(count, width, bias)),
        }
    }

    /// Takes the chunks that come next, in order.
    pub fn take(&mut self, cpu: &Cpu, chunks: &[ChunkSum]) {
        match self {
            BranchSum::Whole(sum) => cpu.run(|| sum.fold(chunks)),
            BranchSum::Partials(partials) => chunks.iter().for_each(|chunk| partials.extend(chunk.rows())),
        }
    }

    /// Takes the chunk that comes next.
    pub fn take_one(&mut self, cpu: &Cpu, chunk: &ChunkSum) {
        match self {
            // The threads have chunks of their own.
            BranchSum::Whole(sum) if chunk.columns() <= DECODE_BATCH => sum.add(chunk),
            _ => self.take(cpu, std::slice::from_ref(chunk)),
        }
    }

    /// Passes over chunks that have nothing to add, of `numbers` numbers each.
    pub fn pass_over(&mut self, chunks: usize, numbers: usize) {
        if let BranchSum::Partials(partials) = self {
            partials.resize(partials.len() + chunks * numbers, 0.0);
        }
    }

    /// The branch.
    pub fn finish(self) -> Branch {
        match self {
            BranchSum::Whole(sum) => Branch::Whole(sum.finish()),
            BranchSum::Partials(partials) => Branch::Partials(partials),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{Arithmetic, Isa, testing};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn partial_sums_added_in_order_on_the_bias_are_the_whole(
            count in 1usize..4, width in 1usize..200, cuts in prop::collection::vec(0usize..4, 1..5), biased in any::<bool>(),
            seed in any::<u32>(),
        ) {
            let noise = |i: usize| ((i as u32).wrapping_mul(2654435761) ^ seed) as f32 / 1e9 - 2.0;
            let bias: Option<Vec<f32>> = biased.then(|| (0..width).map(|i| noise(i + 7)).collect());
            let cpu = testing::on_two(Isa::PORTABLE, Arithmetic::Float);
            let chunks: usize = cuts.iter().sum();
            let rows = |chunk: usize| (0..count * width).map(|i| noise(chunk * 1000 + i)).collect::<Vec<_>>();
            let sums: Vec<ChunkSum> = (0..chunks).map(|chunk| ChunkSum::of_rows(&rows(chunk), width)).collect();
            let (mut whole, mut parts) =
                (BranchSum::new(false, count, width, bias.as_deref()), BranchSum::new(true, count, width, bias.as_deref()));
            let mut rest = &sums[..];
            for cut in cuts {
                let (next, behind) = rest.split_at(cut);
                whole.take(&cpu, next);
                parts.take(&cpu, next);
                rest = behind;
            }
            let (Branch::Whole(whole), Branch::Partials(parts)) = (whole.finish(), parts.finish()) else { panic!() };
            let mut folded: Vec<f32> = (0..count).flat_map(|_| bias.clone().unwrap_or_else(|| vec![0.0; width])).collect();
            for part in parts.chunks_exact(count * width) {
                folded.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
            }
            prop_assert_eq!(whole, folded);
        }
    }

    #[test]
    fn idle_chunks_are_zeros_among_partial_sums_and_nothing_in_the_whole() {
        let cpu = testing::on_two(Isa::PORTABLE, Arithmetic::Float);
        let (mut whole, mut parts) = (BranchSum::new(false, 1, 2, None), BranchSum::new(true, 1, 2, None));
        let chunks = [[1.0, 2.0], [3.0, 4.0]].map(|row| ChunkSum::of_rows(&row, 2));
        for sum in [&mut whole, &mut parts] {
            sum.pass_over(1, 2);
            chunks.iter().for_each(|chunk| sum.take_one(&cpu, chunk));
            sum.pass_over(2, 2);
        }
        assert_eq!(whole.finish(), Branch::Whole(vec![4.0, 6.0]));
        assert_eq!(parts.finish(), Branch::Partials(vec![0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0]));
    }
}
