#![allow(clippy::unwrap_used)]

use super::*;
use crate::config::{Coding, Form};
use crate::types::{BLOCK, Level, Plane};
use half::f16;
use proptest::prelude::*;

const LEVELS: [Level; 3] = [Level::L4, Level::L8, Level::L16];

fn codings() -> impl Strategy<Value = Coding> {
    (prop_oneof![Just(Form::Symmetric), Just(Form::Affine)], prop_oneof![Just(64usize), Just(32)])
        .prop_map(|(form, group)| Coding { form, group, cells: [1, 1, 1] })
}

/// Weights of every size that f16 scales can hold, with zeros, ties and constant runs.
fn weights() -> impl Strategy<Value = Vec<f32>> {
    let weight =
        prop_oneof![4 => -1.0f32..1.0, 1 => Just(0.0), 1 => Just(0.5), 1 => -30000.0f32..30000.0, 1 => -1e-7f32..1e-7];
    prop::collection::vec(weight, 1..200)
}

fn encode(coding: &Coding, weights: &[f32]) -> (Vec<Vec<u8>>, usize) {
    let mut planes: Vec<Vec<u8>> = Plane::ALL.iter().map(|p| vec![0; coding.plane_bytes(*p, weights.len())]).collect();
    let mut views: Vec<&mut [u8]> = planes.iter_mut().map(Vec::as_mut_slice).collect();
    let zeros = encode_record(coding, weights, &mut views).unwrap();
    (planes, zeros)
}

fn rows<'a>(coding: &Coding, planes: &'a [Vec<u8>], width: usize, level: Level) -> Rows<'a> {
    let mut views = [PlaneView::EMPTY; 3];
    views.iter_mut().zip(planes).take(level.plane_count()).for_each(|(to, p)| *to = PlaneView::of(p, p.len(), 0));
    Rows { coding: *coding, level, width, records: 1, planes: views }
}

fn decode(coding: &Coding, planes: &[Vec<u8>], width: usize, level: Level) -> Vec<f32> {
    let rows = rows(coding, planes, width, level);
    let mut out = vec![0.0; rows.blocks() * BLOCK];
    for (block, part) in out.chunks_exact_mut(BLOCK).enumerate() {
        values(coding, level, &rows.record(0), block, part);
    }
    out.truncate(width);
    out
}

/// Lower end and range of a group's cells, from the stored scales.
fn span(coding: &Coding, planes: &[Vec<u8>], width: usize, group: usize) -> (f64, f64) {
    let scales = rows(coding, planes, width, Level::L4).record(0).scales;
    let half = |i: usize| f16::from_le_bytes([scales[2 * i], scales[2 * i + 1]]).to_f64();
    match coding.form {
        Form::Symmetric => (-half(group), 2.0 * half(group)),
        Form::Affine => (half(2 * group), half(2 * group + 1)),
    }
}

proptest! {
    #[test]
    fn a_decoded_weight_is_at_most_half_a_cell_off(coding in codings(), weights in weights()) {
        let (planes, _) = encode(&coding, &weights);
        for level in LEVELS {
            let decoded = decode(&coding, &planes, weights.len(), level);
            for (i, (w, v)) in weights.iter().zip(&decoded).enumerate() {
                let (lo, range) = span(&coding, &planes, weights.len(), i / coding.group);
                let rounding = 2.0 * f64::from(f32::EPSILON) * (lo.abs() + range);
                let half_cell = range / f64::from(1u32 << (level.bits() + 1));
                prop_assert!(f64::from(w - v).abs() <= half_cell + rounding, "{w} became {v} at {level:?}");
            }
        }
    }

    #[test]
    fn scales_cover_the_group(coding in codings(), weights in weights()) {
        let (planes, _) = encode(&coding, &weights);
        for (group, part) in weights.chunks(coding.group).enumerate() {
            let (lo, range) = span(&coding, &planes, weights.len(), group);
            let covered = |w: &f32| lo <= f64::from(*w) && f64::from(*w) <= lo + range;
            prop_assert!(part.iter().all(covered));
        }
    }

    #[test]
    fn coarser_codes_are_the_upper_bits_of_finer_ones(coding in codings(), weights in weights()) {
        let (planes, _) = encode(&coding, &weights);
        let codes = |level: Level, block: usize| codes_u16(level, &rows(&coding, &planes, weights.len(), level).record(0), block);
        for block in 0..weights.len().div_ceil(BLOCK) {
            let full = codes(Level::L16, block);
            prop_assert_eq!(codes(Level::L4, block), full.map(|half| half.map(|c| c >> 12)));
            prop_assert_eq!(codes(Level::L8, block), full.map(|half| half.map(|c| c >> 8)));
        }
    }

    #[test]
    fn zero_groups_decode_to_zero_and_zeros_elsewhere_are_counted(coding in codings(), ones in 0usize..3, width in 1usize..200) {
        let mut weights = vec![0.0f32; width];
        weights.iter_mut().take(ones).for_each(|w| *w = 1.0);
        let (planes, zeros) = encode(&coding, &weights);
        let first = width.min(coding.group);
        prop_assert_eq!(zeros, if ones == 0 { 0 } else { first.saturating_sub(ones) });
        for level in LEVELS {
            let decoded = decode(&coding, &planes, width, level);
            let zero_from = if ones == 0 { 0 } else { first };
            prop_assert!(decoded[zero_from..].iter().all(|v| *v == 0.0));
        }
    }

    #[test]
    fn int8_follows_its_definition(group in prop::array::uniform32((-50.0f32..50.0, -50.0f32..50.0))) {
        let group: [f32; BLOCK] = std::array::from_fn(|i| if i % 2 == 0 { group[i / 2].0 } else { group[i / 2].1 });
        let q = Int8::of(&group);
        let max = group.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let inverse = if max < 1e-30 { 0.0 } else { 127.0 / max };
        let want = group.map(|v| (v * inverse).round_ties_even());
        prop_assert_eq!(q.scale, max / 127.0);
        prop_assert_eq!(q.sum, want.iter().sum::<f32>() * (max / 127.0));
        prop_assert_eq!(q.codes.map(f32::from), want);
    }
}

#[test]
fn what_cannot_be_coded_is_named() {
    for (bad, why) in
        [(f32::NAN, "not finite"), (f32::INFINITY, "not finite"), (70000.0, "beyond"), (-70000.0, "beyond")]
    {
        for form in [Form::Symmetric, Form::Affine] {
            let coding = Coding { form, group: 32, cells: [1, 1, 1] };
            let mut weights = vec![0.25f32; 100];
            weights[70] = bad;
            let mut planes: Vec<Vec<u8>> = Plane::ALL.iter().map(|p| vec![0; coding.plane_bytes(*p, 100)]).collect();
            let mut views: Vec<&mut [u8]> = planes.iter_mut().map(Vec::as_mut_slice).collect();
            let error = encode_record(&coding, &weights, &mut views).unwrap_err();
            assert_eq!(error.group, 2);
            assert!(error.why.contains(why), "{}", error.why);
        }
    }
}

#[test]
fn activations_that_are_not_finite_get_a_nan_scale() {
    let mut x = [1.0f32; BLOCK];
    assert!(Int8::of(&x).scale.is_finite());
    for damage in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        x[6] = damage;
        assert!(Int8::of(&x).scale.is_nan());
    }
}

#[test]
fn activations_round_half_to_even_at_any_size() {
    // Powers of two, so that scaling is exact.
    for power in [100, 0, -20, -90] {
        let mut x = [0.0f32; BLOCK];
        x[..6].copy_from_slice(&[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]);
        x.iter_mut().for_each(|x| *x *= 2f32.powi(power));
        assert_eq!(Int8::of(&x).codes[..6], [127, 0, 2, 2, 0, -2], "2^{power}");
    }
    assert_eq!(Int8::of(&[1e-31; BLOCK]), Int8 { codes: [0; BLOCK], scale: 0.0, sum: 0.0 });
}

#[test]
fn the_sign_of_a_zero_changes_no_byte() {
    let coding = Coding { form: Form::Affine, group: 64, cells: [1, 1, 1] };
    let want = encode(&coding, &[0.0, 0.0, 1.0]);
    for zeros in [[0.0, -0.0], [-0.0, 0.0], [-0.0, -0.0]] {
        assert_eq!(encode(&coding, &[zeros[0], zeros[1], 1.0]), want);
    }
    assert_eq!(encode(&coding, &[-0.0; 70]), encode(&coding, &[0.0; 70]));
}

#[test]
fn an_edge_cell_offset_decodes_to_the_lower_edge() {
    let coding = Coding { form: Form::Affine, group: 64, cells: [0, 1, 1] };
    let (planes, _) = encode(&coding, &[0.0, 1.0]);
    assert_eq!(decode(&coding, &planes, 2, Level::L4), [0.0, 15.0 / 16.0]);
    assert_eq!(decode(&coding, &planes, 2, Level::L8), [1.0 / 512.0, 511.0 / 512.0]);
}
