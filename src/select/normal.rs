//! Normal numbers by place: the same for the same key and place, in whatever order they are asked for.

use std::sync::LazyLock;

/// Bits of a draw: a number is one of as many quantiles, up to 3.67 from 0, of variance 0.9996. A formula would cost ten
/// times the look-up, and traces are made while others are timed.
const BITS: u32 = 12;

/// Draws of one mixed word.
const DRAWS: usize = 5;

static QUANTILES: LazyLock<Vec<f32>> = LazyLock::new(|| {
    let all = 1 << BITS;
    (0..all).map(|i| quantile((f64::from(i) + 0.5) / f64::from(all)) as f32).collect()
});

/// The x below which a normal number is with that probability.
fn quantile(probability: f64) -> f64 {
    let below = |x: f64| 0.5 * libm::erfc(-x / 2f64.sqrt());
    let (mut low, mut high) = (-8.0, 8.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        (low, high) = if below(middle) < probability { (middle, high) } else { (low, middle) };
    }
    low
}

/// A key of its own for a part of what `key` stands for.
pub fn part(key: u64, of: u64) -> u64 {
    mix(mix(key) ^ of)
}

/// Calls `put` with every element of `out` and the normal number of its place.
pub fn each(key: u64, out: &mut [f32], put: impl Fn(&mut f32, f32)) {
    let quantiles: &[f32] = &QUANTILES;
    for (word, out) in out.chunks_mut(DRAWS).enumerate() {
        let drawn = mix(key.wrapping_add((word as u64 + 1).wrapping_mul(STEP)));
        for (i, out) in out.iter_mut().enumerate() {
            put(out, quantiles[(drawn >> (i as u32 * BITS)) as usize % quantiles.len()]);
        }
    }
}

/// 2^64 over the golden ratio, odd: neighbouring counts lie far apart.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Bits of a word so that each rests on all of them (splitmix64's finaliser: Steele, Lea and Flood, OOPSLA 2014).
fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(key: u64, count: usize) -> Vec<f32> {
        let mut out = vec![0.0; count];
        each(key, &mut out, |out, number| *out = number);
        out
    }

    #[test]
    fn draws_have_the_moments_of_normal_numbers() {
        let all: Vec<f64> = drawn(7, 200_000).into_iter().map(f64::from).collect();
        let moment = |k: i32| all.iter().map(|x| x.powi(k)).sum::<f64>() / all.len() as f64;
        // Three deviations of a mean of so many: 0.0067, 0.0095, 0.026, 0.066.
        for (k, want, off) in [(1, 0.0, 0.0067), (2, 1.0, 0.0095), (3, 0.0, 0.026), (4, 3.0, 0.066)] {
            assert!((moment(k) - want).abs() < off, "moment {k} is {}", moment(k));
        }
    }

    #[test]
    fn draws_rest_on_key_and_place_alone() {
        assert_eq!(drawn(1, 12)[..7], drawn(1, 7)[..]);
        assert_ne!(drawn(1, 7), drawn(2, 7));
        assert_ne!(part(1, 2), part(2, 1));
    }
}
