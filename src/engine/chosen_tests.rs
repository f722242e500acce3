//! Leases of chosen chunks: the records that were asked for are those of the store, under any cache.
#![allow(clippy::unwrap_used)]

use super::lease_tests::{FFN, LAYERS, stored};
use super::schedule::tests::dense;
use super::walk::{Part, WalkId};
use super::weights::{Leased, Weights};
use super::{Arithmetic, Choice, Needs, Options, Verify};
use crate::config::{Cut, Ffn, Recipe, Selector, Sparse};
use crate::error::Error;
use crate::store::Store;
use crate::types::{CHUNK, Level, Matrix, Plane};
use proptest::prelude::*;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

fn recipe() -> Recipe {
    let sparse = Sparse { selector: Selector::Plane, cuts: vec![Cut::Top([9, 9, 9])] };
    Recipe { ffn: Ffn::Sparse(sparse), ..dense(4) }
}

fn weights(store: &Arc<Store>, share: f64, verify: Verify, request: u64) -> Weights {
    let manifest = &store.manifest;
    let needs = Needs::of(&manifest.architecture, &manifest.encoding, &recipe(), &[]).unwrap();
    let options = Options {
        recipe: recipe(),
        serves: vec![],
        arithmetic: Arithmetic::Integer,
        cache: Some(needs.least + ((needs.all - needs.least) as f64 * share) as u64),
        verify,
        threads: Some(1),
        io: Choice::Psync,
        lookahead: None,
        request: Some(request),
    };
    Weights::new(store.clone(), &options).unwrap()
}

/// Records of a layer by level, each band rising.
type Bands = Vec<(Level, Vec<usize>)>;

/// Those of a chunk that read a plane.
fn reading(bands: &Bands, chunk: usize, plane: Plane) -> Vec<u32> {
    let bands = bands.iter().filter(|(level, _)| level.planes().contains(&plane));
    let mut records: Vec<u32> =
        bands.flat_map(|(_, ids)| ids).filter(|id| *id / CHUNK == chunk).map(|id| (id % CHUNK) as u32).collect();
    records.sort_unstable();
    records.dedup();
    records
}

/// Compares the records of a band with the file.
fn check(store: &Store, layer: usize, leased: &Leased, level: Level, ids: &[usize]) {
    for matrix in [Matrix::Gate, Matrix::Up, Matrix::Down] {
        for record in ids.iter().filter(|id| leased.records().contains(id)) {
            let rows = leased.rows_at(matrix, level).unwrap();
            for plane in level.planes() {
                let (id, offset) = store.slice(Some(layer), matrix, *plane).unwrap();
                let section = store.section(id);
                let codes = rows.codes(*plane, record - leased.records().start);
                let mut bytes = vec![0; codes.len()];
                let at = section.begin + (record * section.layout.stride + offset) as u64;
                store.read_at(section.file, at, &mut bytes).unwrap();
                assert_eq!(codes, bytes, "{} of record {record}", matrix.name());
            }
        }
    }
}

fn bands() -> impl Strategy<Value = Bands> {
    let ids = || prop::collection::btree_set(0..FFN, 0..60).prop_map(|ids| ids.into_iter().collect::<Vec<_>>());
    (ids(), ids(), ids()).prop_map(|(a, b, c)| vec![(Level::L16, a), (Level::L8, b), (Level::L4, c)])
}

fn visit(
    weights: &mut Weights,
    layer: usize,
    bands: &Bands,
    most: usize,
    each: &mut dyn FnMut(&Leased),
) -> Result<(), Error> {
    let chunks: Vec<usize> =
        (0..FFN.div_ceil(CHUNK)).filter(|chunk| !reading(bands, *chunk, Plane::Base).is_empty()).collect();
    let walk = WalkId::Layer(layer, Part::Rest);
    let mut seen = vec![];
    let wanted = |chunk: usize, _: Matrix, plane: Plane| reading(bands, chunk, plane);
    weights.visit_chosen(walk, &chunks, most, wanted, |run| {
        assert!(run.len() <= most);
        seen.extend(run.iter().map(|leased| leased.records().start / CHUNK));
        run.iter().for_each(&mut *each);
        Ok(())
    })?;
    assert_eq!(seen, chunks, "each once, in order");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn chosen_records_are_those_of_the_store(layers in prop::collection::vec((bands(), 1usize..4), 1..6), share in 0.0..1.0f64, request in prop::sample::select(vec![0, 5000, 1 << 20]),
                                             verify in prop::sample::select(vec![Verify::First, Verify::Always, Verify::Never])) {
        let directory = tempfile::tempdir().unwrap();
        let store = stored(directory.path());
        for share in [0.0, share, 1.0] {
            let mut weights = weights(&store, share, verify, request);
            for (at, (bands, most)) in layers.iter().enumerate() {
                let layer = at % LAYERS;
                let scan = WalkId::Layer(layer, Part::Scan(Level::L4));
                weights.visit(scan, 0..FFN.div_ceil(CHUNK), 1, |_| Ok(())).unwrap();
                visit(&mut weights, layer, bands, *most, &mut |leased| {
                    bands.iter().for_each(|(level, ids)| check(&store, layer, leased, *level, ids));
                }).unwrap();
            }
        }
    }
}

#[test]
fn damage_is_found_by_the_read_that_brings_it_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let store = stored(directory.path());
    let (id, offset) = store.slice(Some(1), Matrix::Up, Plane::Low).unwrap();
    let section = store.section(id);
    let at = section.begin + (300 * section.layout.stride + offset) as u64;
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&store.files[section.file].path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    let mut weights = weights(&store, 0.0, Verify::First, 0);
    let of = |record: usize| vec![(Level::L16, vec![record])];
    let mut read = |record: usize| visit(&mut weights, 1, &of(record), 1, &mut |_| ());
    read(301).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
    read(301).unwrap();
    for _ in 0..2 {
        let told = read(300).unwrap_err().to_string();
        assert!(told.contains("low") && told.contains("record 300"), "{told}");
    }
    file.write_all_at(&byte, at).unwrap();
    read(300).unwrap();
}

#[test]
fn what_was_not_asked_for_is_no_lease() {
    let directory = tempfile::tempdir().unwrap();
    let mut weights = weights(&stored(directory.path()), 0.0, Verify::First, 0);
    visit(&mut weights, 0, &vec![(Level::L4, vec![3])], 1, &mut |leased| {
        assert!(leased.rows_at(Matrix::Down, Level::L4).is_ok());
        assert!(matches!(leased.rows_at(Matrix::Down, Level::L8), Err(Error::Internal(_))));
    })
    .unwrap();
    let sections = &weights.fetcher().stats().sections;
    let read: u64 = sections.iter().map(|of| of.read_bytes).sum();
    assert!(read > 0 && read < 3 * 4096, "a record of two sections: {read}");
}
