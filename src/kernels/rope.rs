//! Rotary position embedding (Su et al., arXiv 2104.09864, section 3.2) in half-split order: element `i` of a head
//! turns together with element `i + head_dim / 2`.

#![forbid(unsafe_code)]

/// Cosines and sines of one position: made once per token, applied to all its heads.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotation {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rotation {
    /// The rotation at `position`, for heads of `2 * inv_freq.len()` elements.
    ///
    /// The angle is `position * inv_freq[i]`, rounded to f32 as the reference implementations do; its cosine and
    /// sine are taken in f64 (by `libm`: the same bits on every machine), rounded to f32 and multiplied by
    /// `attention_factor` in f32 (YaRN, arXiv 2309.00071, section 3.4; 1 without scaling).
    pub fn new(inv_freq: &[f32], attention_factor: f32, position: u32) -> Rotation {
        let pairs = inv_freq.iter().map(|frequency| {
            let angle = f64::from(position as f32 * frequency);
            (libm::cos(angle) as f32 * attention_factor, libm::sin(angle) as f32 * attention_factor)
        });
        let (cos, sin) = pairs.unzip();
        Rotation { cos, sin }
    }

    /// Elements of a head.
    pub fn head_dim(&self) -> usize {
        2 * self.cos.len()
    }

    /// Rotates every head of `heads` in place; each product is rounded before the sum.
    ///
    /// # Panics
    /// If the length is no multiple of [`Rotation::head_dim`].
    pub fn apply(&self, heads: &mut [f32]) {
        assert!(heads.len().is_multiple_of(self.head_dim()), "rotation of a slice that is no whole number of heads");
        heads.chunks_exact_mut(self.head_dim()).for_each(|head| self.rotate(head));
    }

    fn rotate(&self, head: &mut [f32]) {
        let (first, second) = head.split_at_mut(self.cos.len());
        for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(self.cos.iter().zip(&self.sin)) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Error of an element per unit of its pair's length: cosine, product and sum are each rounded once.
    const ROPE_ABSOLUTE: f64 = 3.0 * f32::EPSILON as f64;

    fn inv_freq(head_dim: usize) -> Vec<f32> {
        (0..head_dim / 2).map(|i| 10000f32.powf(-2.0 * i as f32 / head_dim as f32)).collect()
    }

    fn rotate_exact(head: &[f32], inv_freq: &[f32], factor: f32, position: u32) -> Vec<f64> {
        let half = inv_freq.len();
        let turn = |i: usize, sign: f64, other: usize| {
            let angle = f64::from(position as f32 * inv_freq[i % half]);
            f64::from(factor) * (f64::from(head[i]) * angle.cos() + sign * f64::from(head[other]) * angle.sin())
        };
        (0..2 * half).map(|i| if i < half { turn(i, -1.0, i + half) } else { turn(i, 1.0, i - half) }).collect()
    }

    proptest! {
        #[test]
        fn rotation_is_near_the_exact_rotation(
            head in proptest::collection::vec(-8f32..8.0, 64), position in 0u32..200_000, factor in 0.5f32..1.5,
        ) {
            let frequencies = inv_freq(64);
            let mut got = head.clone();
            Rotation::new(&frequencies, factor, position).apply(&mut got);
            for (i, want) in rotate_exact(&head, &frequencies, factor, position).into_iter().enumerate() {
                let length = f64::from(factor * head[i % 32].hypot(head[i % 32 + 32]));
                prop_assert!((f64::from(got[i]) - want).abs() <= ROPE_ABSOLUTE * length + 1e-30);
            }
        }

        #[test]
        fn heads_do_not_see_each_other(heads in proptest::collection::vec(-8f32..8.0, 3 * 16), position in 0u32..9999) {
            let rotation = Rotation::new(&inv_freq(16), 1.0, position);
            let (mut together, mut alone) = (heads.clone(), heads);
            rotation.apply(&mut together);
            alone.chunks_exact_mut(16).for_each(|head| rotation.apply(head));
            prop_assert_eq!(together, alone);
        }
    }

    #[test]
    fn position_zero_turns_nothing() {
        let mut head = [1.0, -2.0, 3.0, 4.0];
        Rotation::new(&[1.0, 0.01], 1.0, 0).apply(&mut head);
        assert_eq!(head, [1.0, -2.0, 3.0, 4.0]);
    }

    #[test]
    fn a_quarter_turn_moves_the_first_half_onto_the_second() {
        let mut head = [1.0, 0.0, 0.0, 1.0];
        Rotation::new(&[std::f32::consts::FRAC_PI_2, 0.0], 2.0, 1).apply(&mut head);
        assert!((head[2] - 2.0).abs() < 1e-6 && head[0].abs() < 1e-6);
        assert_eq!((head[1], head[3]), (0.0, 2.0));
    }

    #[test]
    #[should_panic(expected = "whole number of heads")]
    fn partial_heads_are_refused() {
        Rotation::new(&[1.0], 1.0, 1).apply(&mut [0.0; 3]);
    }
}
