//! Hostile bytes for the parsers: whatever they are, the answer is a value that keeps the rules or an error, no panic.

#![allow(clippy::unwrap_used)]

use super::declared::Declared;
use super::layout::{FileLayout, PAGE, file, files};
use super::manifest::{FileEntry, Manifest};
use super::parse_header;
use crate::config::{Activation, Architecture, Coding, Encoding, Form};
use crate::types::{Matrix, Plane};
use proptest::prelude::*;
use std::path::Path;

fn architecture() -> Architecture {
    Architecture {
        family: "llama".into(),
        layers: 2,
        hidden: 72,
        ffn: 100,
        heads: 3,
        kv_heads: 1,
        head_dim: 24,
        vocab: 259,
        context: 64,
        norm_eps: 1e-5,
        activation: Activation::Silu,
        gated: true,
        tied: false,
        biases: vec![Matrix::Q, Matrix::Down],
        attention_scale: 0.204_124_15,
        rope_layout: "half".into(),
        rope: serde_json::json!({"type": "linear", "theta": 10928588.983213553, "factor": 2}),
        moe: None,
        sliding_window: None,
        qk_norm: false,
        soft_cap: None,
        partial_rope: 1.0,
        parallel_blocks: false,
        alibi: false,
    }
}

fn encoding() -> Encoding {
    let all = |plane| vec![(Matrix::Gate, plane), (Matrix::Up, plane), (Matrix::Down, plane)];
    Encoding {
        coding: Coding { form: Form::Affine, group: 64, cells: [1, 1, 1] },
        planes: 3,
        ffn_sections: Plane::ALL.map(all).to_vec(),
    }
}

fn header(layout: &FileLayout) -> Vec<u8> {
    Declared::new(72, encoding().coding, layout).header(layout)
}

fn manifest() -> Manifest {
    let entry = |layout: &FileLayout| FileEntry {
        name: layout.name.clone(),
        bytes: header(layout).len() as u64 + layout.data_bytes(),
        digest: "0".repeat(32),
        weights: layout.weights(72),
        zeros: 1,
    };
    let entries = files(&architecture(), &encoding()).iter().map(entry).collect();
    let mut manifest = Manifest::new(architecture(), encoding(), entries);
    manifest.source = serde_json::json!({"name": "tiny", "loss": 0.1, "list": [1, null, true, -3]});
    manifest.seal().unwrap();
    manifest
}

fn text(manifest: &Manifest) -> Vec<u8> {
    format!("{:#}\n", serde_json::json!(manifest)).into_bytes()
}

/// One edit of a text; places are taken modulo its length.
#[derive(Clone, Debug)]
enum Edit {
    Flip(usize, u8),
    Cut(usize, usize),
    Insert(usize, Vec<u8>),
    Repeat(usize, usize, usize),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let at = any::<prop::sample::Index>().prop_map(|i| i.index(1 << 20));
    let token = prop_oneof![
        Just("null"),
        Just("-1"),
        Just("1e999"),
        Just("18446744073709551615"),
        Just("9223372036854775808"),
        Just("0.1"),
        Just("NaN"),
        Just("\"\""),
        Just("\"\\u0000\""),
        Just("\"\\ud800\""),
        Just("[["),
        Just("{\"a\":"),
        Just("}"),
        Just(","),
        Just("\"features\":[\"x\"],"),
        Just("\"__metadata__\":{},")
    ];
    let edit = prop_oneof![
        (at.clone(), any::<u8>()).prop_map(|(at, bits)| Edit::Flip(at, bits)),
        (at.clone(), 1usize..200).prop_map(|(at, n)| Edit::Cut(at, n)),
        (at.clone(), token).prop_map(|(at, token)| Edit::Insert(at, token.into())),
        (at.clone(), prop::collection::vec(any::<u8>(), 1..9)).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        (at.clone(), at, 1usize..100).prop_map(|(from, to, n)| Edit::Repeat(from, to, n)),
    ];
    prop::collection::vec(edit, 1..4)
}

fn edited(mut text: Vec<u8>, edits: &[Edit]) -> Vec<u8> {
    for edit in edits {
        let len = text.len().max(1);
        let range = |at: usize, n: usize| at % len..(at % len + n).min(len);
        match edit {
            _ if text.is_empty() => {}
            Edit::Flip(at, bits) => text[at % len] ^= bits,
            Edit::Cut(at, n) => drop(text.drain(range(*at, *n))),
            Edit::Insert(at, bytes) => drop(text.splice(at % len..at % len, bytes.clone())),
            Edit::Repeat(from, to, n) => {
                let piece = text[range(*from, *n)].to_vec();
                text.splice(to % len..to % len, piece);
            }
        }
    }
    text
}

/// What a header that was accepted promises.
fn check_header_rules(bytes: &[u8], data: u64) -> Result<(), TestCaseError> {
    let Ok(header) = parse_header(bytes, data) else { return Ok(()) };
    let mut at = 8 + bytes.len() as u64;
    for tensor in &header.tensors {
        prop_assert_eq!(tensor.begin, at);
        at += tensor.bytes;
    }
    prop_assert_eq!(at, 8 + bytes.len() as u64 + data);
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes_are_a_header_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400), data in any::<u64>()) {
        check_header_rules(&bytes, data)?;
        prop_assert!(Manifest::parse(&bytes, Path::new("m")).is_err());
    }

    #[test]
    fn edited_headers_keep_the_rules_or_are_refused(index in 0usize..3, edits in edits(), exact in any::<bool>(), data in any::<u64>()) {
        let layout = file(&architecture(), &encoding(), index);
        let bytes = edited(header(&layout)[8..].to_vec(), &edits);
        check_header_rules(&bytes, if exact { layout.data_bytes() } else { data })?;
    }

    #[test]
    fn an_edited_manifest_is_the_same_manifest_or_refused(edits in edits()) {
        let manifest = manifest();
        let bytes = edited(text(&manifest), &edits);
        if let Ok(read) = Manifest::parse(&bytes, Path::new("m")) {
            prop_assert_eq!(read, manifest);
        }
    }

    #[test]
    fn numbers_of_rope_and_source_survive_writing_and_reading(floats in prop::collection::vec(any::<f64>(), 1..20), whole in any::<i64>()) {
        let mut manifest = manifest();
        manifest.architecture.rope = serde_json::json!({"type": "x", "theta": whole, "factors": floats});
        manifest.source = manifest.architecture.rope.clone();
        manifest.seal().unwrap();
        prop_assert_eq!(Manifest::parse(&text(&manifest), Path::new("m")).unwrap(), manifest);
    }

    /// Overflow would panic here: tests are compiled with checks.
    #[test]
    fn what_the_limits_let_through_can_be_laid_out(
        sizes in prop::array::uniform7(prop_oneof![1usize..300, (0u32..63).prop_map(|n| 1 << n), any::<usize>()]),
        group in prop_oneof![Just(32usize), Just(64)],
    ) {
        let [hidden, ffn, heads, kv_heads, head_dim, vocab, layers] = sizes;
        let arch = Architecture { hidden, ffn, heads, kv_heads, head_dim, vocab, layers, ..architecture() };
        let mut encoding = encoding();
        encoding.coding.group = group;
        if arch.validate().is_ok() {
            for index in [0, arch.layers] {
                let layout = file(&arch, &encoding, index);
                let tensors = layout.tensors();
                prop_assert_eq!(layout.data_bytes() % PAGE, 0);
                prop_assert!(tensors.windows(2).all(|w| w[0].begin + w[0].bytes == w[1].begin));
                prop_assert!(layout.data_bytes() < 1 << 53 && layout.weights(hidden) < 1 << 53);
            }
        }
    }
}

#[test]
fn our_own_are_accepted() {
    for layout in files(&architecture(), &encoding()) {
        let bytes = header(&layout);
        let parsed = parse_header(&bytes[8..], layout.data_bytes()).unwrap();
        assert_eq!(parsed.tensors.len(), layout.tensors().len());
    }
    assert_eq!(Manifest::parse(&text(&manifest()), Path::new("m")).unwrap(), manifest());
}

#[test]
fn depth_does_not_reach_the_stack() {
    for open in ["[", "{\"a\":"] {
        let deep = open.repeat(1 << 20);
        assert!(parse_header(deep.as_bytes(), 0).is_err());
        let error = Manifest::parse(deep.as_bytes(), Path::new("m")).unwrap_err().to_string();
        assert!(error.contains("recursion limit"), "{error}");
    }
}
