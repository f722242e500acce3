#![allow(clippy::unwrap_used)]

use super::*;
use crate::types::Kind;
use half::f16;
use proptest::prelude::*;

/// Absolute error against f64: scores are sums of up to 128 products and off by 5e-5 at most, weights by that share, and
/// |v| is at most 4.
const ATTENTION_ABSOLUTE: f64 = 2e-4;

/// Positions of every sequence.
const LENGTH: usize = 1100;

/// Values for every sequence and KV head: `[LENGTH, head_dim]`.
type Rows<T> = Vec<Vec<Vec<T>>>;

/// A call with everything that decides what it computes.
#[derive(Clone, Debug)]
struct Case {
    heads: Heads,
    q: Vec<f32>,
    sequences: Vec<u32>,
    positions: Vec<u32>,
    k: Rows<f32>,
    v: Rows<f32>,
}

const SEQUENCES: u32 = 3;

fn shapes() -> impl Strategy<Value = Heads> {
    let dims = prop::sample::select(vec![2usize, 16, 24, 48, 64, 80, 128, 130]);
    (1usize..4, 1usize..8, dims).prop_map(|(kv_heads, group, head_dim)| Heads {
        kv_heads,
        group,
        head_dim,
        scale: (head_dim as f32).powf(-0.5),
    })
}

/// Tokens of several sequences: single ones anywhere, and prompts that may fill several tiles.
fn runs() -> impl Strategy<Value = Vec<(u32, u32)>> {
    let run = (0..SEQUENCES, 0..LENGTH as u32, prop_oneof![3 => Just(1u32), 2 => 2u32..9, 1 => 30u32..150]);
    let tokens = run.prop_map(|(s, first, count)| (first..(first + count).min(LENGTH as u32)).map(move |p| (s, p)));
    proptest::collection::vec(tokens, 1..5).prop_map(|runs| runs.into_iter().flatten().collect())
}

fn cases() -> impl Strategy<Value = Case> {
    (shapes(), runs(), any::<u64>()).prop_map(|(heads, tokens, seed)| {
        let (sequences, positions): (Vec<u32>, Vec<u32>) = tokens.into_iter().unzip();
        let rows = |what: u64| {
            let of = |s: u32, h| noise(seed + what + u64::from(s) * 16 + h as u64, LENGTH * heads.head_dim);
            (0..SEQUENCES).map(|s| (0..heads.kv_heads).map(|h| of(s, h)).collect()).collect()
        };
        let q = noise(seed, positions.len() * heads.kv_heads * heads.item());
        Case { heads, q, sequences, positions, k: rows(100), v: rows(200) }
    })
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

impl Case {
    /// Runs [`attend`] with K and V handed out in blocks of `block` positions; bits, one for all that are no number.
    fn run(&self, isa: Isa, block: usize) -> Vec<u32> {
        let size = block * self.heads.head_dim;
        let blocks = |t: usize, h: usize| {
            let s = self.sequences[t] as usize;
            self.k[s][h].chunks(size).map(KvRows::F32).zip(self.v[s][h].chunks(size).map(KvRows::F32))
        };
        self.attend(isa, blocks)
    }

    /// The same from half precision, into which all values must fit.
    fn run_halves(&self, isa: Isa) -> Vec<u32> {
        let (k, v) = (halves(&self.k), halves(&self.v));
        let size = 64 * self.heads.head_dim;
        let blocks = |t: usize, h: usize| {
            let s = self.sequences[t] as usize;
            k[s][h].chunks(size).map(KvRows::F16).zip(v[s][h].chunks(size).map(KvRows::F16))
        };
        self.attend(isa, blocks)
    }

    fn attend<'a, I>(&self, isa: Isa, blocks: impl Fn(usize, usize) -> I + Sync) -> Vec<u32>
    where
        I: Iterator<Item = (KvRows<'a>, KvRows<'a>)>,
    {
        let mut out = vec![f32::NAN; self.q.len()];
        let tokens = Tokens { sequences: &self.sequences, positions: &self.positions, kind: Kind::Decode };
        attend(isa, &self.heads, &self.q, tokens, blocks, &mut out);
        out.iter().map(|x| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }).collect()
    }

    /// Elements of a token's queries.
    fn width(&self) -> usize {
        self.heads.kv_heads * self.heads.item()
    }

    /// One token of it.
    fn alone(&self, token: usize) -> Case {
        let q = self.q[token * self.width()..][..self.width()].to_vec();
        Case { q, sequences: vec![self.sequences[token]], positions: vec![self.positions[token]], ..self.clone() }
    }
}

fn halves(rows: &Rows<f32>) -> Rows<f16> {
    let half = |head: &Vec<f32>| head.iter().map(|x| f16::from_f32(*x)).collect();
    rows.iter().map(|heads| heads.iter().map(half).collect()).collect()
}

/// The values of `rows` times `factor`, rounded to half precision.
fn rounded(rows: &Rows<f32>, factor: f32) -> Rows<f32> {
    let round = |head: &Vec<f32>| head.iter().map(|x| f16::from_f32(x * factor).to_f32()).collect();
    rows.iter().map(|heads| heads.iter().map(round).collect()).collect()
}

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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn attention_is_near_the_oracle(case in cases()) {
        let (out, d) = (case.run(Isa::detect(), 64), case.heads.head_dim);
        for (i, (q, out)) in case.q.chunks_exact(d).zip(out.chunks_exact(d)).enumerate() {
            let (token, h) = (i * d / case.width(), i / case.heads.group % case.heads.kv_heads);
            let (s, seen) = (case.sequences[token] as usize, (case.positions[token] as usize + 1) * d);
            let want = attend_naive(q, &case.k[s][h][..seen], &case.v[s][h][..seen], case.heads.scale);
            for (out, want) in out.iter().zip(want) {
                let out = f64::from(f32::from_bits(*out));
                prop_assert!((out - want).abs() <= ATTENTION_ABSOLUTE, "{out} is not {want}");
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_neighbours_or_blocks(case in cases(), block in 1usize..7) {
        let together = case.run(Isa::detect(), 64);
        for (t, row) in together.chunks_exact(case.width()).enumerate() {
            prop_assert_eq!(row, &case.alone(t).run(Isa::detect(), 64 * block));
        }
    }

    #[test]
    fn instruction_sets_and_half_precision_change_no_bit(mut case in cases(), shift in 0i32..26) {
        (case.k, case.v) = (rounded(&case.k, 1.0), rounded(&case.v, 0.5f32.powi(shift)));
        let want = case.run(Isa::PORTABLE, 64);
        for isa in Isa::available() {
            prop_assert_eq!(&case.run(isa, 128), &want, "{}", isa.name());
            prop_assert_eq!(&case.run_halves(isa), &want, "{}", isa.name());
        }
    }

    /// What a token does not see reaches no bit of it, whatever it is; what it sees that is not finite makes every
    /// instruction set say the same.
    #[test]
    fn values_that_are_not_finite_stay_where_they_are_seen(
        mut case in cases(), bad in 0usize..LENGTH, kind in 0usize..3, in_v in any::<bool>(),
    ) {
        (case.k, case.v) = (rounded(&case.k, 1.0), rounded(&case.v, 1.0));
        let before = case.run(Isa::detect(), 64);
        let (value, d) = ([f32::NAN, f32::INFINITY, f32::NEG_INFINITY][kind], case.heads.head_dim);
        let rows = if in_v { &mut case.v } else { &mut case.k };
        rows.iter_mut().flatten().for_each(|head| head[bad * d] = value);
        let after = case.run(Isa::detect(), 64);
        let tokens = before.chunks_exact(case.width()).zip(after.chunks_exact(case.width()));
        for ((before, after), position) in tokens.zip(&case.positions) {
            prop_assert!(*position as usize >= bad || before == after);
        }
        for isa in Isa::available() {
            prop_assert_eq!(&case.run(isa, 64), &after, "{}", isa.name());
            prop_assert_eq!(&case.run_halves(isa), &after, "{}", isa.name());
        }
    }
}

/// One sequence, one query head of two elements, K and V as given.
fn small(q: [f32; 2], positions: &[u32], k: &[f32], v: &[f32]) -> Vec<f32> {
    let case = Case {
        heads: Heads { kv_heads: 1, group: 1, head_dim: 2, scale: 1.0 },
        q: q.repeat(positions.len()),
        sequences: vec![0; positions.len()],
        positions: positions.to_vec(),
        k: vec![vec![k.to_vec()]],
        v: vec![vec![v.to_vec()]],
    };
    let out = case.run(Isa::detect(), 64);
    assert!(Isa::available().iter().all(|isa| case.run(*isa, 64) == out), "sets of instructions differ");
    out.into_iter().map(f32::from_bits).collect()
}

/// One sequence, with what any seed gives.
fn one_sequence(heads: Heads, positions: Vec<u32>) -> Case {
    let length = positions.iter().max().map_or(0, |last| *last as usize + 1);
    let head = |seed: u64| noise(seed, length * heads.head_dim);
    let rows = |seed: u64| vec![(0..heads.kv_heads as u64).map(|h| head(seed + h)).collect()];
    let q = noise(9, positions.len() * heads.kv_heads * heads.item());
    Case { heads, q, sequences: vec![0; positions.len()], positions, k: rows(1), v: rows(11) }
}

/// Three heads of many tokens are cut by tokens, single tokens by stretches: some at a time where query rows are many.
#[test]
fn bits_do_not_depend_on_threads() {
    let heads = |kv_heads, group, head_dim| Heads { kv_heads, group, head_dim, scale: 0.2 };
    let prompt = (0..150).chain([149, 0, 63, 64, 65, 127, 128, 20]).collect();
    let cases = [
        one_sequence(heads(3, 2, 48), prompt),
        one_sequence(heads(1, 4, 48), vec![1700]),
        one_sequence(heads(3, 1, 16), vec![511, 512, 1023, 1024]),
        one_sequence(heads(1, 600, 2), vec![3300]),
    ];
    let with = |case: &Case, threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| case.run(Isa::detect(), 64))
    };
    for case in &cases {
        let alone = with(case, 1);
        assert!([2, 3, 8].iter().all(|threads| with(case, *threads) == alone), "{:?}", case.heads);
    }
}

#[test]
fn the_first_position_returns_its_value() {
    assert_eq!(small([0.3, -2.0], &[0], &[1.0, 5.0, 9.0, 9.0], &[0.25, 3.0, 7.0, 7.0]), [0.25, 3.0]);
}

#[test]
fn large_scores_do_not_overflow() {
    let (k, v) = ([300.0, 0.0, -300.0, 0.0], [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(small([300.0, 0.0], &[1], &k, &v), [1.0, 2.0]);
}

#[test]
fn non_finite_keys_reach_the_output() {
    let (k, v) = ([1.0, 0.0, f32::NAN, 0.0], [1.0; 4]);
    assert!(small([1.0, 0.0], &[1], &k, &v).iter().all(|o| o.is_nan()));
    assert_eq!(small([1.0, 0.0], &[0], &k, &v), [1.0, 1.0]);
}

/// As without spans: a score of minus infinity weighs nothing, even where a whole span has no other; with nothing else,
/// and with one of plus infinity, there is no answer.
#[test]
fn infinite_scores() {
    let low = [f32::NEG_INFINITY, 0.0];
    let k = [low.repeat(64), vec![1.0, 0.0], low.repeat(2)].concat();
    let v: Vec<f32> = (0..2 * 67).map(|i| i as f32).collect();
    assert_eq!(small([1.0, 0.0], &[64], &k, &v), [128.0, 129.0]);
    assert_eq!(small([1.0, 0.0], &[66], &k, &v), [128.0, 129.0]);
    assert!(small([1.0, 0.0], &[63], &k, &v).iter().all(|o| o.is_nan()));
    assert!(small([-1.0, 0.0], &[66], &k, &v).iter().all(|o| o.is_nan()));
}

/// A later span with far larger scores takes all the weight from the earlier ones, and a far smaller one none.
#[test]
fn the_largest_score_may_come_in_any_span() {
    for peak in [3, 70, 130, 600, 1100] {
        let k: Vec<f32> = (0..1200).flat_map(|p| [if p == peak { 200.0 } else { 0.0 }, 0.0]).collect();
        let v: Vec<f32> = (0..2 * 1200).map(|i| i as f32).collect();
        assert_eq!(small([1.0, 0.0], &[1199], &k, &v), [2.0 * peak as f32, 2.0 * peak as f32 + 1.0]);
    }
}

#[test]
fn tiles_are_runs_of_one_sequence() {
    assert_eq!(tiles(&[4, 4, 4, 7, 4, 4], 2), [0..2, 2..3, 3..4, 4..6]);
    assert!(tiles(&[], 2).is_empty());
}

/// Stretches without a score that weighs anything, first, last or between.
#[test]
fn infinite_scores_over_whole_stretches() {
    let v: Vec<f32> = (0..2 * 1600).map(|i| i as f32).collect();
    for peak in [0, 511, 512, 1599] {
        let k: Vec<f32> = (0..1600).flat_map(|p| [if p == peak { 1.0 } else { f32::NEG_INFINITY }, 0.0]).collect();
        assert_eq!(small([1.0, 0.0], &[1599], &k, &v), [2.0 * peak as f32, 2.0 * peak as f32 + 1.0]);
    }
}

#[test]
#[should_panic(expected = "attention over 500 rows before the last block")]
fn a_short_block_between_others_is_a_bug() {
    let heads = Heads { kv_heads: 1, group: 1, head_dim: 2, scale: 1.0 };
    let case = one_sequence(heads, vec![700]);
    let (k, v) = (&case.k[0][0], &case.v[0][0]);
    let cut = |rows| [KvRows::F32(rows).slice(0..1000), KvRows::F32(rows).slice(1000..1402)].into_iter();
    case.attend(Isa::detect(), |_, _| cut(k).zip(cut(v)));
}

#[test]
#[should_panic(expected = "attention at position 3 over 3 rows")]
fn missing_rows_are_a_bug() {
    small([0.0; 2], &[3], &[0.0; 6], &[0.0; 6]);
}
