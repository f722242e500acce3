//! Causal attention over blocks of K and V, in f32, one (token, KV head) at a time. Half-precision blocks are widened
//! when they are read, once for all query heads of a KV head; widening is exact.
//!
//! **Order.** A score is a dot product in the order of [`super::lanes`], then times the scale. Exponentials of
//! `score - max` are summed by rising position and each is divided by the sum; every element of the output adds
//! weight times v by rising position, each product rounded first. So a token's result depends on its query and on the
//! K and V of its positions alone: not on other tokens, threads, chunks or block size; half-precision blocks give what
//! their values give in single precision.

#![forbid(unsafe_code)]

use super::Isa;
use super::exp::exp;
use super::lanes::{LANES, axpy, dot};
use super::widen::widened;
use super::x86::attention as on;
use crate::types::KvRows;
use rayon::prelude::*;

/// The heads of one call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    /// KV heads of this call; they may be a range of the model's.
    pub kv_heads: usize,
    /// Query heads that read one KV head: neighbours in a row of `q`.
    pub group: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Factor on scores.
    pub scale: f32,
}

impl Heads {
    /// Elements of the query heads that read one KV head: what one work item reads of `q` and writes of `out`.
    pub fn item(&self) -> usize {
        self.group * self.head_dim
    }
}

/// Attention of N tokens: `q` and `out` are `[N, kv_heads * group * head_dim]`, token `t` sees positions
/// `0..=positions[t]`.
///
/// `blocks(t, kv_head)` (the KV head counted from this call's first) yields the K rows and the V rows of token `t`'s
/// sequence by rising position, each `[rows, head_dim]` with any number of rows, `positions[t] + 1` rows or more in
/// all. It is called twice per work item; items run on the current rayon pool.
///
/// # Panics
/// If a length does not fit, or if `blocks` yields too few rows.
pub fn attend<'a, F, I>(isa: Isa, heads: &Heads, q: &[f32], positions: &[u32], blocks: F, out: &mut [f32])
where
    F: Fn(usize, usize) -> I + Sync,
    I: Iterator<Item = (KvRows<'a>, KvRows<'a>)>,
{
    let length = positions.len() * heads.kv_heads * heads.item();
    assert!(q.len() == length && out.len() == length, "queries or outputs that do not fit the heads and positions");
    out.par_chunks_mut(heads.item()).zip(q.par_chunks(heads.item())).enumerate().for_each_init(
        Scratch::default,
        |scratch, (item, (out, q))| {
            let (token, kv_head) = (item / heads.kv_heads, item % heads.kv_heads);
            attend_item(isa, heads, q, positions[token], || blocks(token, kv_head), scratch, out);
        },
    );
}

/// What a thread keeps between items, so that nothing is allocated per position.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// Scores, then weights, of one item: `[group, length]`.
    pub(super) weights: Vec<f32>,
    rows: Vec<f32>,
}

/// One work item of [`attend`]: the `group` query heads `q` of one token that read one KV head, into `out`, both
/// `[group, head_dim]`.
///
/// # Panics
/// If a length does not fit, or if `blocks` yields too few rows.
fn attend_item<'a, I>(
    isa: Isa,
    heads: &Heads,
    q: &[f32],
    position: u32,
    blocks: impl Fn() -> I,
    scratch: &mut Scratch,
    out: &mut [f32],
) where
    I: Iterator<Item = (KvRows<'a>, KvRows<'a>)>,
{
    let (length, d) = (position as usize + 1, heads.head_dim);
    assert!(q.len() == heads.item() && out.len() == heads.item(), "queries or outputs that do not fit the heads");
    scratch.weights.resize(heads.group * length, 0.0);
    for (first, k) in visible(blocks().map(|(k, _)| k), length, d) {
        on::score_block(isa, heads, q, k, first, scratch);
    }
    scratch.weights.chunks_exact_mut(length).for_each(|scores| on::softmax(isa, scores));
    out.fill(0.0);
    for (first, v) in visible(blocks().map(|(_, v)| v), length, d) {
        on::combine_block(isa, heads, v, first, scratch, out);
    }
}

/// Cuts blocks of rows off after `length` rows; yields the index of a block's first row with it.
fn visible<'a>(
    mut blocks: impl Iterator<Item = KvRows<'a>>,
    length: usize,
    head_dim: usize,
) -> impl Iterator<Item = (usize, KvRows<'a>)> {
    let mut first = 0;
    std::iter::from_fn(move || {
        if first == length {
            return None;
        }
        let Some(rows) = blocks.next() else { panic!("attention at position {} over {first} rows", length - 1) };
        let count = (rows.elements() / head_dim).min(length - first);
        first += count;
        Some((first - count, rows.first(count * head_dim)))
    })
}

/// Scaled scores of all query heads with the K rows of positions `first..`; each row is read once for the group.
#[inline(always)]
pub(super) fn score_block(heads: &Heads, q: &[f32], rows: KvRows, first: usize, scratch: &mut Scratch) {
    let Scratch { weights: scores, rows: widening } = scratch;
    let length = scores.len() / heads.group;
    for (row, k) in widened(rows, widening).chunks_exact(heads.head_dim).enumerate() {
        for (head, q) in q.chunks_exact(heads.head_dim).enumerate() {
            scores[head * length + first + row] = dot(q, k) * heads.scale;
        }
    }
}

/// Replaces scores by `exp(score - max)` over their sum. A NaN score makes every weight NaN.
#[inline(always)]
pub(super) fn softmax(scores: &mut [f32]) {
    let max = largest(scores);
    scores.iter_mut().for_each(|score| *score = exp(*score - max));
    let sum: f32 = scores.iter().fold(0.0, |sum, power| sum + power);
    scores.iter_mut().for_each(|weight| *weight /= sum);
}

/// Lane by lane, since the largest does not depend on the order.
#[inline(always)]
fn largest(scores: &[f32]) -> f32 {
    let (whole, rest) = scores.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for scores in whole {
        lanes = std::array::from_fn(|i| if scores[i] > lanes[i] { scores[i] } else { lanes[i] });
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// Adds the weighted V rows of positions `first..` to all query heads; they stay in the nearest cache while the group
/// reads them.
#[inline(always)]
pub(super) fn combine_block(heads: &Heads, rows: KvRows, first: usize, scratch: &mut Scratch, out: &mut [f32]) {
    let Scratch { weights, rows: widening } = scratch;
    let length = weights.len() / heads.group;
    let rows = widened(rows, widening);
    let seen = first..first + rows.len() / heads.head_dim;
    for (out, weights) in out.chunks_exact_mut(heads.head_dim).zip(weights.chunks_exact(length)) {
        add_rows(&weights[seen.clone()], rows, out);
    }
}

/// `out += weights * rows`. Sixteen elements stay in registers over a whole block: three quarters of the time of one
/// `axpy` per row.
#[inline(always)]
fn add_rows(weights: &[f32], rows: &[f32], out: &mut [f32]) {
    let width = out.len();
    let (chunks, tail) = out.as_chunks_mut::<LANES>();
    let tail_at = chunks.len() * LANES;
    for (c, chunk) in chunks.iter_mut().enumerate() {
        let mut sums = *chunk;
        for (weight, row) in weights.iter().zip(rows.chunks_exact(width)) {
            axpy(&mut sums, *weight, &row[c * LANES..(c + 1) * LANES]);
        }
        *chunk = sums;
    }
    for (weight, row) in weights.iter().zip(rows.chunks_exact(width)) {
        axpy(tail, *weight, &row[tail_at..]);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use half::f16;
    use proptest::prelude::*;

    /// Absolute error against f64: scores are sums of up to 128 products and off by 5e-5 at most, weights by that
    /// share, and |v| is at most 4.
    const ATTENTION_ABSOLUTE: f64 = 2e-4;

    /// K or V of a sequence for every KV head: `[kv_heads][positions, head_dim]`.
    type Rows = Vec<Vec<f32>>;

    /// Attention of one query head by the definition, in f64.
    fn attend_naive(q: &[f32], k: &[f32], v: &[f32], scale: f32) -> Vec<f64> {
        let d = q.len();
        let dot = |k: &[f32]| q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>();
        let scores: Vec<f64> = k.chunks_exact(d).map(|k| dot(k) * f64::from(scale)).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
        let total: f64 = weights.iter().sum();
        let element = |i: usize| weights.iter().zip(v.chunks_exact(d)).map(|(w, v)| w * f64::from(v[i])).sum::<f64>();
        (0..d).map(|i| element(i) / total).collect()
    }

    /// Values in -4..4 that any (seed, index) gives at once.
    fn noise(seed: u64, count: usize) -> Vec<f32> {
        let mix = |i: u64| {
            (i ^ seed.rotate_left(32))
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(29)
                .wrapping_mul(0xbf58_476d_1ce4_e5b9)
        };
        (0..count as u64).map(|i| (mix(i) >> 40) as f32 / (1 << 21) as f32 - 4.0).collect()
    }

    fn rows(seed: u64, heads: &Heads, positions: usize) -> (Rows, Rows) {
        let one = |what: u64| {
            (0..heads.kv_heads as u64).map(|h| noise(seed + 100 * what + h, positions * heads.head_dim)).collect()
        };
        (one(1), one(2))
    }

    /// Runs [`attend`] over rows handed out in blocks of `block` positions.
    fn run(heads: &Heads, q: &[f32], positions: &[u32], kv: &(Rows, Rows), block: usize) -> Vec<f32> {
        run_on(Isa::detect(), heads, q, positions, kv, block)
    }

    fn run_on(isa: Isa, heads: &Heads, q: &[f32], positions: &[u32], (k, v): &(Rows, Rows), block: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; q.len()];
        let size = block * heads.head_dim;
        let blocks = |_, h: usize| k[h].chunks(size).map(KvRows::F32).zip(v[h].chunks(size).map(KvRows::F32));
        attend(isa, heads, q, positions, blocks, &mut out);
        out
    }

    fn rounded(rows: &Rows) -> Vec<Vec<f16>> {
        rows.iter().map(|head| head.iter().map(|x| f16::from_f32(*x)).collect()).collect()
    }

    fn exact(rows: &[Vec<f16>]) -> Rows {
        rows.iter().map(|head| head.iter().map(|x| x.to_f32()).collect()).collect()
    }

    fn shapes() -> impl Strategy<Value = Heads> {
        (1usize..4, 1usize..8, prop_oneof![Just(2usize), Just(16), Just(24), Just(64), Just(80), Just(128)]).prop_map(
            |(kv_heads, group, head_dim)| Heads { kv_heads, group, head_dim, scale: (head_dim as f32).powf(-0.5) },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn attention_is_near_the_oracle(
            heads in shapes(), positions in proptest::collection::vec(0u32..200, 1..6), seed in 0u64..1000,
        ) {
            let kv = rows(seed, &heads, 200);
            let q = noise(seed + 7, positions.len() * heads.kv_heads * heads.item());
            let out = run(&heads, &q, &positions, &kv, 64);
            let d = heads.head_dim;
            for (i, (q, out)) in q.chunks_exact(d).zip(out.chunks_exact(d)).enumerate() {
                let (token, h) = (i / (heads.kv_heads * heads.group), i / heads.group % heads.kv_heads);
                let seen = (positions[token] as usize + 1) * d;
                let want = attend_naive(q, &kv.0[h][..seen], &kv.1[h][..seen], heads.scale);
                for (out, want) in out.iter().zip(want) {
                    prop_assert!((f64::from(*out) - want).abs() <= ATTENTION_ABSOLUTE, "{out} is not {want}");
                }
            }
        }

        #[test]
        fn bits_do_not_depend_on_neighbours_or_blocks(
            heads in shapes(), positions in proptest::collection::vec(0u32..200, 2..9), seed in 0u64..1000,
            block in 1usize..200,
        ) {
            let kv = rows(seed, &heads, 200);
            let row = heads.kv_heads * heads.item();
            let q = noise(seed, positions.len() * row);
            let together = run(&heads, &q, &positions, &kv, 64);
            for (t, position) in positions.iter().enumerate() {
                let alone = run(&heads, &q[t * row..(t + 1) * row], &[*position], &kv, block);
                prop_assert_eq!(&together[t * row..(t + 1) * row], &alone[..]);
            }
        }
    }

    proptest! {
        #[test]
        fn instruction_sets_and_half_precision_change_no_bit(
            heads in shapes(), positions in proptest::collection::vec(0u32..200, 1..6), seed in 0u64..1000,
            shift in 0i32..26,
        ) {
            let small = 0.5f32.powi(shift);
            let (k, v) = rows(seed, &heads, 200);
            let (k, v) = (rounded(&k), rounded(&v.iter().map(|h| h.iter().map(|x| x * small).collect()).collect()));
            let q = noise(seed + 7, positions.len() * heads.kv_heads * heads.item());
            let size = 64 * heads.head_dim;
            let blocks = |_, h: usize| k[h].chunks(size).map(KvRows::F16).zip(v[h].chunks(size).map(KvRows::F16));
            let want = run_on(Isa::PORTABLE, &heads, &q, &positions, &(exact(&k), exact(&v)), 64);
            for isa in Isa::available() {
                let mut out = vec![f32::NAN; q.len()];
                attend(isa, &heads, &q, &positions, blocks, &mut out);
                prop_assert_eq!(&out, &want, "{}", isa.name());
                prop_assert_eq!(&run_on(isa, &heads, &q, &positions, &(exact(&k), exact(&v)), 64), &want);
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let heads = Heads { kv_heads: 3, group: 2, head_dim: 48, scale: 0.2 };
        let (kv, positions) = (rows(3, &heads, 150), [149, 0, 63, 64, 65, 127, 128, 20]);
        let q = noise(9, positions.len() * heads.kv_heads * heads.item());
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| run(&heads, &q, &positions, &kv, 64))
        };
        assert_eq!(with(1), with(4));
    }

    #[test]
    fn the_first_position_returns_its_value() {
        let heads = Heads { kv_heads: 1, group: 2, head_dim: 4, scale: 0.5 };
        let kv = rows(1, &heads, 3);
        let out = run(&heads, &noise(2, 8), &[0], &kv, 64);
        assert_eq!(out, [&kv.1[0][..4], &kv.1[0][..4]].concat());
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let heads = Heads { kv_heads: 1, group: 1, head_dim: 2, scale: 1.0 };
        let kv = (vec![vec![300.0, 0.0, -300.0, 0.0]], vec![vec![1.0, 2.0, 3.0, 4.0]]);
        assert_eq!(run(&heads, &[300.0, 0.0], &[1], &kv, 64), [1.0, 2.0]);
    }

    #[test]
    fn non_finite_keys_reach_the_output() {
        let heads = Heads { kv_heads: 1, group: 1, head_dim: 2, scale: 1.0 };
        let kv = (vec![vec![1.0, 0.0, f32::NAN, 0.0]], vec![vec![1.0; 4]]);
        assert!(run(&heads, &[1.0, 0.0], &[1], &kv, 64).iter().all(|o| o.is_nan()));
        assert_eq!(run(&heads, &[1.0, 0.0], &[0], &kv, 64), [1.0, 1.0]);
    }

    #[test]
    #[should_panic(expected = "attention at position 3 over 3 rows")]
    fn missing_rows_are_a_bug() {
        let heads = Heads { kv_heads: 1, group: 1, head_dim: 2, scale: 1.0 };
        let mut out = [0.0; 2];
        let (k, v) = ([0.0; 6], [0.0; 6]);
        attend_item(
            Isa::detect(),
            &heads,
            &[0.0; 2],
            3,
            || std::iter::once((KvRows::F32(&k), KvRows::F32(&v))),
            &mut Scratch::default(),
            &mut out,
        );
    }
}
