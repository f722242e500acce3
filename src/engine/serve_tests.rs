//! An engine that serves several recipes gives the bits of engines that were opened for each.
#![allow(clippy::unwrap_used)]

use super::lease_tests::{FFN, LAYERS, stored};
use super::schedule::tests::dense;
use super::{Arithmetic, Branch, Choice, Engine, Needs, Options, Verify};
use crate::config::{Cut, Ffn, Recipe, Selector, Sparse};
use crate::error::Error;
use crate::store::Store;
use crate::types::{Kind, Level};
use proptest::prelude::*;
use std::sync::Arc;

const HIDDEN: usize = 128;

fn sparse(selector: Selector, cut: [usize; 3]) -> Recipe {
    Recipe { ffn: Ffn::Sparse(Sparse { selector, cuts: vec![Cut::Top(cut)] }), ..dense(8) }
}

/// Of every kind, coarse and fine.
fn recipes() -> Vec<Recipe> {
    let sparse = [
        sparse(Selector::Plane, [9, 0, 200]),
        sparse(Selector::Plane, [0, 0, 30]),
        sparse(Selector::Oracle, [0, 100, 0]),
    ];
    let mixed = Recipe { prompt: Level::L16, head: Level::L4, embed: Level::L4, ..dense(8) };
    [4, 8, 16].map(dense).into_iter().chain(sparse).chain([mixed]).collect()
}

/// What needs as much as all of them.
fn widest() -> [Recipe; 2] {
    [dense(16), sparse(Selector::Plane, [1, 0, 0])]
}

fn engine(store: &Arc<Store>, recipe: &Recipe, serves: Vec<Recipe>, cache: Option<u64>, lookahead: u64) -> Engine {
    let options = Options {
        recipe: recipe.clone(),
        serves,
        arithmetic: Arithmetic::Integer,
        cache,
        verify: Verify::First,
        threads: Some(1),
        io: Choice::Psync,
        lookahead: Some(lookahead),
        request: None,
    };
    Engine::new(store.clone(), options).unwrap()
}

/// A prompt's and decoded rows through everything that has no keys and values.
fn bits(engine: &mut Engine) -> Vec<u32> {
    let mut out = engine.embed(&[3, 511, 70]).unwrap();
    let x: Vec<f32> = (0..2 * HIDDEN).map(|i| (i as f32 * 0.37).sin()).collect();
    for (layer, kind) in (0..LAYERS).flat_map(|layer| [(layer, Kind::Prompt), (layer, Kind::Decode)]) {
        match engine.ffn(layer, &x, None, kind).unwrap() {
            Branch::Whole(rows) => out.extend(rows),
            Branch::Partials(_) => panic!("all chunks were asked for"),
        }
    }
    out.extend(engine.head(&x).unwrap());
    out.iter().map(|value| value.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_served_recipe_gives_the_bits_of_its_own_engine(
        order in prop::collection::vec(0usize..7, 1..6), share in prop::sample::select(vec![0.0, 0.4, 1.0]), lookahead in 0u64..1_000_000,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let (store, recipes, [first, second]) = (stored(directory.path()), recipes(), widest());
        let manifest = &store.manifest;
        let needs = Needs::of(&manifest.architecture, &manifest.encoding, &first, std::slice::from_ref(&second)).unwrap();
        let cache = needs.least + ((needs.all - needs.least) as f64 * share) as u64;
        let mut served = engine(&store, &first, vec![second], Some(cache), lookahead);
        for at in order {
            served.serve(recipes[at].clone()).unwrap();
            let own = bits(&mut engine(&store, &recipes[at], vec![], None, 0));
            prop_assert_eq!(bits(&mut served), own, "recipe {}", at);
        }
        let report = served.report();
        prop_assert!(report.fixed_bytes + report.ring_bytes <= cache);
    }
}

#[test]
fn what_there_is_no_room_for_is_refused_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = stored(directory.path());
    let mut engine = engine(&store, &dense(8), vec![], None, 0);
    let before = bits(&mut engine);
    let plane = sparse(Selector::Plane, [0, 9, 0]);
    for (recipe, what) in
        [(dense(16), "section"), (plane, "chosen while"), (Recipe { embed: Level::L16, ..dense(4) }, "embed")]
    {
        let told = engine.serve(recipe).unwrap_err();
        assert!(matches!(&told, Error::Usage(told) if told.contains(what) && told.contains("serves")), "{told}");
    }
    assert!(engine.serve(sparse(Selector::Plane, [FFN, 9, 0])).is_err(), "more neurons than there are");
    assert_eq!(bits(&mut engine), before);
    engine.serve(dense(4)).unwrap();
    assert_ne!(bits(&mut engine), before);
}

#[test]
fn what_is_loaded_is_not_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut engine = engine(&stored(directory.path()), &dense(8), vec![], None, 0);
    bits(&mut engine);
    let moved = |engine: &Engine| {
        engine
            .report()
            .sections
            .iter()
            .filter(|of| !of.section.starts_with("embed"))
            .map(|of| of.moved.counters.read_bytes)
            .sum::<u64>()
    };
    let before = moved(&engine);
    for bits_of in [4, 8, 4] {
        engine.serve(dense(bits_of)).unwrap();
        bits(&mut engine);
    }
    assert_eq!(moved(&engine), before);
}
