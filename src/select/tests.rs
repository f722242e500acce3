#![allow(clippy::unwrap_used)]
use super::*;
use crate::config::{Above, Cut};
use crate::kernels::testing::on_two;
use crate::kernels::{Arithmetic, Isa};
use crate::types::{CHUNK, DECODE_BATCH, LEVELS, Level, Plane};
use proptest::prelude::*;
use std::cmp::Ordering;

/// What is before what: not a number, then larger scores, then lower ids.
fn before(scores: &[f32], a: usize, b: usize) -> Ordering {
    let (x, y) = (scores[a], scores[b]);
    let by_score = y.partial_cmp(&x).unwrap_or_else(|| y.is_nan().cmp(&x.is_nan()));
    by_score.then(a.cmp(&b))
}

/// The level of every neuron of a token, by sorting all of them.
fn levels(scores: &[f32], cut: &Cut) -> Vec<Option<usize>> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| before(scores, *a, *b));
    let mut levels = vec![None; scores.len()];
    for (place, id) in order.into_iter().enumerate() {
        levels[id] = match cut {
            Cut::Top([a, b, c]) => [*a, a + b, a + b + c].iter().position(|end| place < *end),
            Cut::Above(above) if place >= above.most => None,
            Cut::Above(above) => {
                let reaches =
                    |least: &Option<f32>| least.is_some_and(|least| scores[id].is_nan() || scores[id] >= least);
                above.scores.iter().position(reaches)
            }
        };
    }
    levels
}

/// The same out of a set.
fn levels_of(set: &ActiveSet, neurons: usize, n: usize) -> Vec<Option<usize>> {
    let mut levels = vec![None; neurons];
    for (chunk, bands) in set.chunks.iter().enumerate() {
        for (level, band) in bands.iter().enumerate() {
            for (id, used) in band.ids.iter().zip(&band.used).filter(|(_, used)| *used >> n & 1 == 1) {
                assert!(levels[chunk * CHUNK + *id as usize].replace(level).is_none(), "in two bands: {used:b}");
            }
        }
    }
    levels
}

fn chosen(scores: &[f32], neurons: usize, cut: &Cut) -> ActiveSet {
    let mut set = ActiveSet::all(3, 700, Level::L8);
    choose(None, scores, neurons, cut, &mut set);
    // Whoever computes it.
    let mut of_threads = ActiveSet::all(2, 300, Level::L4);
    choose(Some(&on_two(Isa::PORTABLE, Arithmetic::Integer)), scores, neurons, cut, &mut of_threads);
    assert_eq!(set, of_threads);
    set
}

/// Many ties, and all that is special.
fn score() -> impl Strategy<Value = f32> {
    let special = vec![f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, f32::MAX, 1e-45, -1e-45];
    prop_oneof![3 => -4i32..5, 1 => Just(0)]
        .prop_map(|tie| tie as f32 / 4.0)
        .boxed()
        .prop_union(prop::sample::select(special).boxed())
        .or((-2f32..2.0).boxed())
}

fn cut() -> impl Strategy<Value = Cut> {
    let threshold = || prop::option::weighted(0.8, -1f32..1.0);
    let above = ([threshold(), threshold(), threshold()], 1usize..800).prop_map(|(mut scores, most)| {
        scores.sort_by(|a, b| b.partial_cmp(a).unwrap());
        Cut::Above(Above { scores, most })
    });
    let count = || prop_oneof![1 => Just(0), 3 => 0usize..300];
    prop_oneof![[count(), count(), count()].prop_map(Cut::Top), above]
}

/// Scores of up to four tokens.
fn scores() -> impl Strategy<Value = (usize, Vec<f32>)> {
    (1usize..600, 0usize..5)
        .prop_flat_map(|(neurons, n)| (Just(neurons), prop::collection::vec(score(), neurons * n..=neurons * n)))
}

proptest! {
    #[test]
    fn sets_are_those_of_sorting_everything((neurons, scores) in scores(), cut in cut()) {
        let set = chosen(&scores, neurons, &cut);
        prop_assert_eq!(set.columns, scores.len() / neurons);
        for (n, scores) in scores.chunks_exact(neurons).enumerate() {
            prop_assert_eq!(levels_of(&set, neurons, n), levels(scores, &cut));
        }
    }

    #[test]
    fn a_token_alone_has_the_set_it_has_in_a_batch((neurons, scores) in scores(), cut in cut()) {
        let set = chosen(&scores, neurons, &cut);
        for (n, scores) in scores.chunks_exact(neurons).enumerate() {
            prop_assert_eq!(levels_of(&set, neurons, n), levels_of(&chosen(scores, neurons, &cut), neurons, 0));
        }
    }

    #[test]
    fn bands_are_lists_of_exactly_what_is_used((neurons, scores) in scores(), cut in cut()) {
        let set = chosen(&scores, neurons, &cut);
        prop_assert_eq!(set.chunks.len(), neurons.div_ceil(CHUNK));
        for (chunk, bands) in set.chunks.iter().enumerate() {
            for (band, level) in bands.iter().zip(LEVELS) {
                prop_assert_eq!(band.level, level);
                prop_assert!(band.ids.is_sorted_by(|a, b| a < b) && band.ids.len() == band.used.len());
                prop_assert!(band.ids.iter().all(|id| chunk * CHUNK + (*id as usize) < neurons.min(chunk * CHUNK + CHUNK)));
                prop_assert!(band.used.iter().all(|used| *used != 0 && used >> set.columns == 0));
            }
        }
    }

    #[test]
    fn unions_are_those_of_the_levels((neurons, scores) in scores(), cut in cut()) {
        let set = chosen(&scores, neurons, &cut);
        let of = |n: usize| levels_of(&set, neurons, n);
        let all: Vec<_> = (0..set.columns).map(of).collect();
        let planes = [(Plane::Base, 2), (Plane::Mid, 1), (Plane::Low, 0)];
        for ((plane, coarsest), known) in planes.into_iter().zip([Some(2), Some(1), None]).chain(planes.map(|plane| (plane, None))) {
            let reads = |level: usize| level <= coarsest && Some(level) != known;
            let reads = |id: &usize| all.iter().any(|levels| levels[*id].is_some_and(reads));
            let known = known.map(|level| LEVELS[level]);
            let reading = |chunk| set.reading(chunk, plane, known).into_iter().map(move |id| chunk * CHUNK + id as usize);
            let have: Vec<usize> = (0..set.chunks.len()).flat_map(reading).collect();
            prop_assert_eq!(have, (0..neurons).filter(reads).collect::<Vec<_>>());
        }
        let idle = |chunk: usize| all.iter().all(|levels| levels.chunks(CHUNK).nth(chunk).unwrap().iter().all(Option::is_none));
        prop_assert!((0..set.chunks.len()).all(|chunk| set.is_idle(chunk) == idle(chunk)));
    }

    #[test]
    fn a_larger_cut_contains_the_smaller((neurons, scores) in scores(), small in [0usize..200, 0usize..200, 0usize..200], more in [0usize..99, 0usize..99, 0usize..99]) {
        let [few, many] = [small, std::array::from_fn(|i| small[i] + more[i])].map(|top| chosen(&scores, neurons, &Cut::Top(top)));
        for n in 0..few.columns {
            let pairs = levels_of(&few, neurons, n).into_iter().zip(levels_of(&many, neurons, n));
            // Whoever is in stays in, at no coarser level.
            prop_assert!(pairs.into_iter().all(|(few, many)| few.is_none_or(|few| many.is_some_and(|many| many <= few))));
        }
    }
}

#[test]
fn all_is_every_neuron_for_every_token() {
    for columns in [0, 1, 31, DECODE_BATCH] {
        let set = ActiveSet::all(columns, 300, Level::L8);
        assert!((0..columns).all(|n| levels_of(&set, 300, n) == [Some(1); 300]));
        assert!((columns..DECODE_BATCH).all(|n| levels_of(&set, 300, n) == [None; 300]));
        assert_eq!(
            (set.reading(1, Plane::Mid, None).len(), set.reading(1, Plane::Low, None).len()),
            if columns == 0 { (0, 0) } else { (44, 0) }
        );
    }
}

#[test]
fn every_token_of_a_full_batch_has_its_bit() {
    let scores: Vec<f32> = (0..DECODE_BATCH * DECODE_BATCH).map(|i| f32::from(i % (DECODE_BATCH + 1) == 0)).collect();
    let set = chosen(&scores, DECODE_BATCH, &Cut::Top([0, 0, 1]));
    let [_, _, band] = &set.chunks[0];
    assert_eq!(band.ids, (0..32).collect::<Vec<u32>>());
    assert_eq!(band.used, (0..32).map(|n| 1 << n).collect::<Vec<u32>>());
}

#[test]
fn neurons_that_nobody_is_left_for_are_left_out() {
    let mut band = Band { level: Level::L8, ids: vec![3, 5, 9], used: vec![0b01, 0b11, 0b10] };
    band.leave_out(&[0b01, 0b01, 0b00]);
    assert_eq!((band.ids, band.used), (vec![5, 9], vec![0b10, 0b10]));
}
