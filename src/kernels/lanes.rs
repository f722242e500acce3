//! Sums over f32 slices in one fixed order: the bits of norms and of f32 dots rest on it, those of int8 dots on its fold.
//!
//! **Order.** Lane `i` of 16 holds the sum, by rising index, of the terms whose index is `i` modulo 16; each product
//! is rounded before it is added (no fused multiply-add). The lanes are then folded by a tree: lane `i` takes lane
//! `i + 8`, then `i + 4`, `i + 2`, `i + 1`. A length that is no multiple of 16 is summed as if padded with zeros:
//! a lane starts at +0 and so never becomes -0, which makes leaving the padding out exact.
//!
//! Everything is inlined into its caller, so that a caller compiled for wider registers widens these loops too;
//! the order above, and with it every bit, stays.

#![forbid(unsafe_code)]

/// Partial sums kept side by side: one 512-bit register, two of 256, four of 128.
pub const LANES: usize = 16;

/// Folds partial sums by the tree 8, 4, 2, 1: `lanes[i] += lanes[i + half]`.
#[inline(always)]
pub fn fold16(lanes: [f32; LANES]) -> f32 {
    let eight: [f32; 8] = halve(&lanes);
    let four: [f32; 4] = halve(&eight);
    let two: [f32; 2] = halve(&four);
    two[0] + two[1]
}

#[inline(always)]
fn halve<const HALF: usize>(lanes: &[f32]) -> [f32; HALF] {
    let (low, high) = lanes.split_at(HALF);
    std::array::from_fn(|i| low[i] + high[i])
}

/// Dot product of two slices of the same length, in the order the module states. Empty slices give +0.
///
/// # Panics
/// If the lengths differ.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "dot of slices of different lengths");
    let (a, a_tail) = a.as_chunks::<LANES>();
    let (b, b_tail) = b.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        lanes = add_products(lanes, a, b);
    }
    if !a_tail.is_empty() {
        lanes = add_products(lanes, &padded(a_tail), &padded(b_tail));
    }
    fold16(lanes)
}

#[inline(always)]
fn add_products(lanes: [f32; LANES], a: &[f32; LANES], b: &[f32; LANES]) -> [f32; LANES] {
    std::array::from_fn(|i| lanes[i] + a[i] * b[i])
}

/// A tail with zeros after it: whole registers throughout, where a loop over the tail would spill them all.
#[inline(always)]
fn padded(tail: &[f32]) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    lanes[..tail.len()].copy_from_slice(tail);
    lanes
}

/// `y[i] += a * x[i]`, the product rounded before the sum.
///
/// # Panics
/// If the lengths differ.
#[inline(always)]
pub fn axpy(y: &mut [f32], a: f32, x: &[f32]) {
    assert_eq!(y.len(), x.len(), "axpy of slices of different lengths");
    for (y, x) in y.iter_mut().zip(x) {
        *y += a * x;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The module's order, written out without lanes, chunks or loops that could be vectorised.
    fn dot_naive(a: &[f32], b: &[f32]) -> f32 {
        let lane = |i: usize| (i..a.len()).step_by(16).fold(0.0f32, |sum, j| sum + a[j] * b[j]);
        let eight = |i| lane(i) + lane(i + 8);
        let four = |i| eight(i) + eight(i + 4);
        (four(0) + four(2)) + (four(1) + four(3))
    }

    fn dot_exact(a: &[f32], b: &[f32]) -> (f64, f64) {
        let terms = || a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
        (terms().sum(), terms().map(f64::abs).sum())
    }

    fn pairs() -> impl Strategy<Value = Vec<(f32, f32)>> {
        proptest::collection::vec((-1e3f32..1e3, -1e3f32..1e3), 0..200)
    }

    proptest! {
        #[test]
        fn dot_follows_the_stated_order(pairs in pairs()) {
            let (a, b): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            prop_assert_eq!(dot(&a, &b).to_bits(), dot_naive(&a, &b).to_bits());
        }

        #[test]
        fn dot_is_near_the_exact_sum(pairs in pairs()) {
            let (a, b): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let (exact, absolute) = dot_exact(&a, &b);
            // 13 sums in a lane at most, 4 in the fold, 1 product: 18 roundings on the way of a term.
            let tolerance = 18.0 * f64::from(f32::EPSILON) * absolute;
            prop_assert!((f64::from(dot(&a, &b)) - exact).abs() <= tolerance);
        }

        #[test]
        fn padding_with_zeros_changes_no_bit(pairs in pairs(), padding in 0usize..40) {
            let (mut a, mut b): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let bits = dot(&a, &b).to_bits();
            a.resize(a.len() + padding, 0.0);
            b.resize(b.len() + padding, -0.0);
            prop_assert_eq!(dot(&a, &b).to_bits(), bits);
        }

        #[test]
        fn axpy_rounds_the_product_first(pairs in pairs(), a in -1e3f32..1e3) {
            let (mut y, x): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let want: Vec<u32> = y.iter().zip(&x).map(|(y, x)| { let p = a * x; (y + p).to_bits() }).collect();
            axpy(&mut y, a, &x);
            prop_assert_eq!(y.iter().map(|y| y.to_bits()).collect::<Vec<_>>(), want);
        }
    }

    #[test]
    fn the_fold_is_a_tree() {
        // 2^24 + 1 is no f32: pairing lane 0 with lane 8 keeps the ones that a left-to-right sum would lose.
        let mut lanes = [1.0; LANES];
        (lanes[0], lanes[8]) = (16_777_216.0, -16_777_216.0);
        assert_eq!(fold16(lanes), 14.0);
        assert_eq!(lanes.iter().sum::<f32>(), 7.0);
    }

    #[test]
    fn non_finite_terms_reach_the_sum() {
        assert!(dot(&[1.0, f32::NAN], &[1.0, 1.0]).is_nan());
        assert_eq!(dot(&[f32::INFINITY], &[2.0]), f32::INFINITY);
        assert_eq!(dot(&[], &[]).to_bits(), 0);
    }

    #[test]
    #[should_panic(expected = "different lengths")]
    fn lengths_must_agree() {
        dot(&[1.0], &[]);
    }
}
