#![allow(clippy::unwrap_used)]
use super::*;
use crate::config::{Activation, Architecture};

fn arch(activation: Activation) -> Architecture {
    let text = r#"{"family": "llama", "layers": 2, "hidden": 64, "ffn": 300, "heads": 2, "kv_heads": 1, "head_dim": 32,
        "vocab": 10, "context": 8, "norm_eps": 1e-5, "activation": "relu", "gated": true, "tied": false, "biases": [],
        "attention_scale": 0.125, "rope_layout": "half", "rope": {"type": "default", "theta": 1e4}}"#;
    Architecture { activation, ..serde_json::from_str(text).unwrap() }
}

fn with(ffn: &str) -> String {
    format!(r#"{{"attn": 8, "head": 8, "embed": 16, "prompt": 8, "ffn": {ffn}}}"#)
}

fn recipe(ffn: &str) -> Recipe {
    Recipe::parse(&with(ffn)).unwrap()
}

fn refused(ffn: &str) -> String {
    recipe(ffn).validate(&arch(Activation::Silu)).unwrap_err().to_string()
}

/// What is agreed on with the Python side.
const AGREED: [&str; 7] = [
    r#"{"dense": 4}"#,
    r#"{"certified": 16}"#,
    r#"{"sparse": {"selector": "plane", "cuts": [{"top": [64, 64, 128]}]}}"#,
    r#"{"sparse": {"selector": "lowrank", "cuts": [{"top": [64, 0, 0]}, {"top": [0, 0, 300]}]}}"#,
    r#"{"sparse": {"selector": {"cascade": [200]}, "cuts": [{"top": [0, 64, 128]}]}}"#,
    r#"{"sparse": {"selector": "oracle", "cuts": [{"above": {"scores": [1.5, 0.7, null], "most": 300}}]}}"#,
    r#"{"sparse": {"selector": {"trace": {"paid": "lowrank", "memory": 0.9, "skew": 1.0, "seed": 0}},
        "cuts": [{"top": [1, 1, 1]}]}}"#,
];

#[test]
fn what_is_agreed_on_is_read_written_and_valid() {
    for ffn in AGREED {
        let read = recipe(ffn);
        assert_eq!(Recipe::parse(&serde_json::to_string(&read).unwrap()).unwrap(), read, "{ffn}");
        read.validate(&arch(Activation::Relu)).unwrap();
    }
}

#[test]
fn errors_of_reading_name_the_field() {
    let cases = [
        ("[", "recipe: no JSON"),
        ("[]", "recipe: no object"),
        (r#"{"attn": 8, "head": 8, "embed": 16, "prompt": 8}"#, "recipe: ffn is missing"),
        (
            r#"{"attn": 5, "head": 8, "embed": 16, "prompt": 8, "ffn": {"dense": 4}}"#,
            "recipe.attn: a level of 5 bits; 4, 8",
        ),
        (r#"{"attn": "8", "head": 8, "embed": 16, "prompt": 8, "ffn": {"dense": 4}}"#, "recipe.attn: invalid type"),
        (r#"{"tail": 8}"#, r#"recipe: "tail" is unknown; known are attn, head"#),
        (&with(r#"{"dense": 4, "certified": 8}"#), "recipe.ffn: has 2 fields; it has one of dense, certified, sparse"),
        (&with("{}"), "recipe.ffn: has 0 fields"),
        (&with(r#"{"dense": 12}"#), "recipe.ffn.dense: a level of 12 bits"),
        (&with(r#"{"sparse": {"selector": "plane"}}"#), "recipe.ffn.sparse: cuts is missing"),
        (
            &with(r#"{"sparse": {"selector": "gate", "cuts": []}}"#),
            "recipe.ffn.sparse.selector: unknown variant `gate`",
        ),
        (
            &with(r#"{"sparse": {"selector": "plane", "cuts": [{"top": [1, 2, 3]}, {"top": [1, 2]}]}}"#),
            "recipe.ffn.sparse.cuts[1]: invalid length 2, expected an array of length 3",
        ),
        (
            &with(r#"{"sparse": {"selector": "plane", "cuts": [{"top": [1, 2, -3]}]}}"#),
            "recipe.ffn.sparse.cuts[0]: invalid value: integer `-3`",
        ),
    ];
    for (text, want) in cases {
        let why = Recipe::parse(text).unwrap_err().to_string();
        assert!(why.starts_with(want), "{text} gives {why:?}, not {want:?}");
    }
}

#[test]
fn certified_needs_zeros_and_a_plane_below() {
    let certified = |bits: u32| recipe(&format!(r#"{{"certified": {bits}}}"#));
    assert!(certified(8).validate(&arch(Activation::Relu6)).is_ok());
    let silu = certified(16).validate(&arch(Activation::Silu)).unwrap_err().to_string();
    assert!(
        silu.starts_with("recipe.ffn.certified needs") && silu.contains("silu") && silu.contains("relu2"),
        "{silu}"
    );
    let four = certified(4).validate(&arch(Activation::Relu)).unwrap_err().to_string();
    assert!(four.contains("take 8 or 16"), "{four}");
}

#[test]
fn cuts_that_no_layer_can_have_are_refused() {
    let sparse =
        |selector: &str, cuts: &str| refused(&format!(r#"{{"sparse": {{"selector": {selector}, "cuts": [{cuts}]}}}}"#));
    let top = |counts: &str| sparse(r#""plane""#, &format!(r#"{{"top": [1, 1, 1]}}, {{"top": {counts}}}"#));
    assert!(
        top("[100, 100, 101]").starts_with("recipe.ffn.sparse.cuts[1].top keeps [100, 100, 101], in all 301 neurons")
    );
    assert!(top(&format!("[{}, 1, 0]", u64::MAX)).contains("cuts[1].top keeps"));
    assert!(top("[0, 0, 0]").contains("cuts[1].top keeps no neuron"));
    let above = |scores: &str, most: usize| {
        sparse(r#""plane""#, &format!(r#"{{"above": {{"scores": {scores}, "most": {most}}}}}"#))
    };
    assert!(above("[0.5, null, 0.7]", 9).contains("a finer level's threshold may not be below a coarser one's"));
    assert!(above("[0.5, null, 0.1]", 0).contains("cuts[0].above.most is 0"));
    assert!(above("[null, null, null]", 9).contains("no threshold"));
    assert!(above("[1e39, null, null]", 9).contains("must be finite"));
    let three = sparse(r#""plane""#, r#"{"top": [1, 1, 1]}, {"top": [1, 1, 1]}, {"top": [1, 1, 1]}"#);
    assert_eq!(three, "recipe.ffn.sparse.cuts has 3 entries; give 1 for all layers, or 2: one for each");
    assert!(sparse(r#""plane""#, "").contains("has 0 entries"));
}

#[test]
fn cascades_and_traces_have_rules_of_their_own() {
    let with =
        |selector: &str, cut: &str| refused(&format!(r#"{{"sparse": {{"selector": {selector}, "cuts": [{cut}]}}}}"#));
    let cascade = |counts: &str| with(&format!(r#"{{"cascade": {counts}}}"#), r#"{"top": [0, 0, 40]}"#);
    assert!(cascade("[0]").contains("selector.cascade[0] is 0; a layer of this model has 300"));
    assert!(cascade("[300, 301]").contains("selector.cascade[1] is 301"));
    assert!(cascade("[1, 2, 3]").contains("selector.cascade has 3 entries"));
    assert!(cascade("[40, 39]").contains("layer 1 keeps 40 neurons of the 39 that its cascade lets through"));
    let trace = |paid: &str, memory: f32, skew: f32| {
        let selector = format!(r#"{{"trace": {{"paid": {paid}, "memory": {memory}, "skew": {skew}, "seed": 1}}}}"#);
        with(&selector, r#"{"above": {"scores": [1, null, null], "most": 3}}"#)
    };
    assert!(trace(r#""plane""#, 1.5, 1.0).contains("trace.memory is 1.5; it must lie in 0..=1"));
    assert!(trace(r#""plane""#, 1.0, -1.0).contains("trace.skew is -1"));
    assert!(trace(r#"{"cascade": [301]}"#, 1.0, 1.0).contains("trace.paid.cascade[0] is 301"));
    assert!(trace(r#""plane""#, 1.0, 1.0).contains("cut it by counts"));
    let inner = r#"{"trace": {"paid": "plane", "memory": 0, "skew": 0, "seed": 1}}"#;
    assert!(trace(inner, 1.0, 1.0).contains("trace.paid is a trace itself"));
}

#[test]
fn a_recipe_says_what_the_engine_needs() {
    let needs = |ffn: &str| {
        let recipe = recipe(ffn);
        (recipe.ffn_levels(), recipe.ffn_finest(), recipe.needs_predictor())
    };
    use Level::*;
    assert_eq!(needs(AGREED[0]), (vec![L4], L8, false));
    assert_eq!(needs(AGREED[1]), (vec![L4, L8, L16], L16, false));
    assert_eq!(needs(AGREED[2]), (vec![L4, L8, L16], L16, false));
    assert_eq!(needs(AGREED[3]), (vec![L4, L16], L16, true));
    assert_eq!(needs(AGREED[4]), (vec![L4, L8], L8, true));
    assert_eq!(needs(AGREED[5]), (vec![L8, L16], L16, false));
    assert_eq!(needs(AGREED[6]), (vec![L4, L8, L16], L16, true));
    let (own, cascade) = (recipe(AGREED[3]), recipe(AGREED[4]));
    assert_eq!((own.cut(1), own.cut(2)), (Some(&Cut::Top([0, 0, 300])), None));
    assert_eq!(cascade.sparse().unwrap().selector.candidates(1), Some(200));
    assert_eq!(recipe(AGREED[0]).cut(0), None);
}

#[test]
fn heads_are_counted_for_all_layers_or_for_each() {
    let with = |heads: &str| {
        Recipe::parse(&format!(
            r#"{{"attn": 8, "head": 8, "embed": 16, "prompt": 8, "ffn": {{"dense": 4}}, "query_heads": {heads}}}"#
        ))
    };
    let counts = |heads: &str| (0..2).map(|layer| with(heads).unwrap().query_heads(layer)).collect::<Vec<_>>();
    assert_eq!(counts("null"), [None, None]);
    assert_eq!(counts(r#"{"top": 1}"#), [Some(1), Some(1)]);
    assert_eq!(counts(r#"{"top": [2, 1]}"#), [Some(2), Some(1)]);
    let read = with(r#"{"top": [2, 1]}"#).unwrap();
    assert_eq!(Recipe::parse(&serde_json::to_string(&read).unwrap()).unwrap(), read);
    let unread = |heads: &str| with(heads).unwrap_err().to_string();
    assert!(unread("2").starts_with("recipe.query_heads: no object; it has top"));
    assert!(unread(r#"{"top": [-1]}"#).starts_with("recipe.query_heads.top: invalid value"));
    let unfit = |heads: &str| with(heads).unwrap().validate(&arch(Activation::Silu)).unwrap_err().to_string();
    assert_eq!(
        unfit(r#"{"top": [1, 3]}"#),
        "recipe.query_heads.top[1] is 3; a layer of this model has 2 query heads: take 1 to 2"
    );
    assert!(unfit(r#"{"top": 0}"#).starts_with("recipe.query_heads.top[0] is 0"));
    assert!(
        unfit(r#"{"top": [1, 1, 1]}"#).contains("recipe.query_heads.top has 3 entries; give 1 for all layers, or 2")
    );
}
