//! Leases of a store's records: the bytes that lie there, in order, and errors that leave the rest usable.
#![allow(clippy::unwrap_used)]

use super::room::EMBEDDINGS;
use super::schedule::tests::{architecture, dense, encoding};
use super::walk::{Part, WalkId};
use super::weights::{Leased, Weights};
use super::{Arithmetic, Choice, Needs, Options, Verify};
use crate::error::Error;
use crate::store::{Store, StoreWriter};
use crate::types::{CHUNK, Level, Matrix};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

pub(super) const LAYERS: usize = 2;
pub(super) const FFN: usize = 700;
const VOCAB: usize = 520;

/// A store of random weights.
pub(super) fn stored(directory: &Path) -> Arc<Store> {
    let arch = architecture(LAYERS, 128, FFN, VOCAB, false);
    let mut writer = StoreWriter::new(vec![directory.to_path_buf()], arch, encoding()).unwrap();
    for (name, _) in writer.sizes() {
        writer.begin(&name).unwrap();
        writer.synthesize(3).unwrap();
        writer.end().unwrap();
    }
    writer.finish(|_| Ok(())).unwrap();
    Arc::new(Store::open(directory).unwrap())
}

/// Its weights under the least cache, or with room for all.
fn weights(store: &Arc<Store>, bits: u32, all: bool) -> Weights {
    let manifest = &store.manifest;
    let needs = Needs::of(&manifest.architecture, &manifest.encoding, &dense(bits), &[]).unwrap();
    let options = Options {
        recipe: dense(bits),
        serves: vec![],
        arithmetic: Arithmetic::Integer,
        cache: Some(if all { needs.all } else { needs.least }),
        verify: Verify::First,
        threads: Some(1),
        io: Choice::Psync,
        lookahead: None,
        request: None,
    };
    Weights::new(store.clone(), &options).unwrap()
}

/// The walk of a matrix of a layer of a dense model.
fn walk(layer: usize, matrix: Matrix, bits: u32) -> WalkId {
    let ffn = [Matrix::Gate, Matrix::Up, Matrix::Down].contains(&matrix);
    WalkId::Layer(layer, if ffn { Part::Ffn(Level::from_bits(bits).unwrap()) } else { Part::Attention(matrix) })
}

/// Compares all planes of a matrix's leased records with the file.
fn check(store: &Store, layer: Option<usize>, matrix: Matrix, leased: &Leased) {
    let rows = leased.rows(matrix).unwrap();
    for plane in rows.level.planes() {
        let (id, offset) = store.slice(layer, matrix, *plane).unwrap();
        let section = store.section(id);
        for (r, record) in leased.records().enumerate() {
            let mut bytes = vec![0; rows.codes(*plane, r).len()];
            let at = section.begin + (record * section.layout.stride + offset) as u64;
            store.read_at(section.file, at, &mut bytes).unwrap();
            assert_eq!(rows.codes(*plane, r), bytes, "{} of record {record}", matrix.name());
        }
    }
}

#[test]
fn a_lease_is_what_lies_in_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let store = stored(directory.path());
    for (bits, all) in [(4, false), (8, true), (16, false)] {
        let mut weights = weights(&store, bits, all);
        for layer in 0..LAYERS {
            for matrices in [&[Matrix::O][..], &[Matrix::Gate, Matrix::Up, Matrix::Down]] {
                for chunk in 0..store.manifest.architecture.records(matrices[0]).div_ceil(CHUNK) {
                    let leased = weights.lease(walk(layer, matrices[0], bits), chunk).unwrap();
                    matrices.iter().for_each(|matrix| check(&store, Some(layer), *matrix, &leased));
                }
            }
        }
        let tokens: Vec<u32> = (0..EMBEDDINGS as u32).map(|i| VOCAB as u32 - 1 - i / 2).collect();
        let rows = weights.lease_embeddings(&tokens).unwrap();
        assert!(rows.iter().map(|row| row.records().start as u32).eq(tokens));
        rows.iter().for_each(|row| check(&store, None, Matrix::Embed, row));
    }
}

#[test]
fn a_visit_takes_every_chunk_once_and_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let store = stored(directory.path());
    for (all, most, runs) in [(false, 5, vec![1, 1, 1]), (true, 5, vec![3]), (true, 2, vec![2, 1])] {
        let mut weights = weights(&store, 4, all);
        let mut sizes = vec![];
        for _ in 0..2 {
            let mut seen = vec![];
            sizes.clear();
            let visit = weights.visit(WalkId::Head, 0..3, most, |run| {
                seen.extend(run.iter().map(Leased::records));
                sizes.push(run.len());
                Ok(())
            });
            visit.unwrap();
            assert_eq!(seen, [0..256, 256..512, 512..520]);
            assert!(sizes.iter().all(|size| *size <= most));
        }
        // The second time all is loaded, where it fits.
        assert_eq!(sizes, runs, "{most} at most, room for all: {all}");
    }
}

#[test]
fn an_error_ends_a_visit_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let mut weights = weights(&stored(directory.path()), 8, false);
    let mut visits = 0;
    let visit = weights.visit(WalkId::Head, 0..3, 1, |_| {
        visits += 1;
        if visits == 2 { Err(Error::usage("enough")) } else { Ok(()) }
    });
    assert_eq!(visit.unwrap_err().to_string(), Error::usage("enough").to_string());
    assert_eq!(visits, 2);
    assert_eq!(weights.lease(WalkId::Head, 2).unwrap().records(), 512..VOCAB);
}

#[test]
fn what_is_not_there_is_no_lease() {
    let directory = tempfile::tempdir().unwrap();
    let mut weights = weights(&stored(directory.path()), 4, false);
    let internal = |error: Error| matches!(error, Error::Internal(_));
    assert!(internal(weights.lease(walk(0, Matrix::Q, 4), 1).err().unwrap()), "a chunk behind the last");
    for part in [Part::Attention(Matrix::Embed), Part::Ffn(Level::L8), Part::Scan(Level::L4), Part::Rest] {
        assert!(internal(weights.lease(WalkId::Layer(0, part), 0).err().unwrap()), "{part:?} of a layer");
    }
    assert!(internal(weights.lease(walk(LAYERS, Matrix::K, 4), 0).err().unwrap()), "a layer behind the last");
    let leased = weights.lease(walk(1, Matrix::V, 4), 0).unwrap();
    assert!(internal(leased.rows(Matrix::Q).err().unwrap()), "a matrix of another walk");
}

#[test]
fn damage_names_its_records_and_leaves_the_rest_usable() {
    let directory = tempfile::tempdir().unwrap();
    let store = stored(directory.path());
    let (id, offset) = store.slice(Some(1), Matrix::Up, crate::types::Plane::Base).unwrap();
    let section = store.section(id);
    let at = section.begin + (300 * section.layout.stride + offset) as u64;
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&store.files[section.file].path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
    let (mut weights, ffn) = (weights(&store, 4, false), walk(1, Matrix::Up, 4));
    let told = weights.lease(ffn, 1).err().unwrap().to_string();
    assert!(told.contains("record 300"), "{told}");
    for chunk in [0, 2] {
        check(&store, Some(1), Matrix::Up, &weights.lease(ffn, chunk).unwrap());
    }
    assert!(weights.lease(ffn, 1).is_err(), "it is not believed the second time");
}
