//! Traces of any bytes, and replays against sums by hand.
#![allow(clippy::unwrap_used)]

use super::{Header, Kind, Line, Outcome, Trace, replay};
use crate::error::Result;
use crate::tier::{Block, BlockId, Dram, Place, policy};
use proptest::prelude::*;

const HEADER: &str = concat!(
    r#"{"format":"m2cache-trace","version":1,"store":"ab","levels":{"attn":4},"synthetic":null,"blocks":["#,
    r#"{"section":"q.base","layer":0,"bytes":4096,"count":2},{"section":"q.base","layer":0,"bytes":100,"count":1},"#,
    r#"{"section":"head.base","layer":null,"bytes":8192,"count":1}]}"#,
    "\n"
);

fn open(text: &[u8]) -> Result<Trace<&[u8]>> {
    Trace::new(text, "a.trace".into())
}

fn lines(text: &str) -> Result<Vec<Line>> {
    let mut trace = open(text.as_bytes())?;
    std::iter::from_fn(|| trace.next_line().transpose()).collect()
}

fn run(body: &str, kind: policy::Kind, capacity: u64) -> Outcome {
    replay(&mut open(format!("{HEADER}{body}").as_bytes()).unwrap(), kind, capacity).unwrap()
}

#[test]
fn a_trace_is_read_line_by_line() {
    let found = lines(&format!("{HEADER}prompt 12\n0* 1*\n3\ndecode 1\n2*\n")).unwrap();
    let step = |blocks: &[(u32, bool)]| Line::Step(blocks.iter().map(|(b, read)| (BlockId(*b), *read)).collect());
    let wanted = vec![
        Line::Pass { kind: Kind::Prompt, rows: 12 },
        step(&[(0, true), (1, true)]),
        step(&[(3, false)]),
        Line::Pass { kind: Kind::Decode, rows: 1 },
        step(&[(2, true)]),
    ];
    assert_eq!(found, wanted);
}

#[test]
fn blocks_have_positions_in_their_sections() {
    let blocks = open(HEADER.as_bytes()).unwrap().header.blocks();
    let found: Vec<(usize, f32)> = blocks.iter().map(|b| (b.bytes, b.position)).collect();
    assert_eq!(found, [(4096, 0.5 / 3.0), (4096, 0.5), (100, 2.5 / 3.0), (8192, 0.5)]);
}

#[test]
fn what_breaks_a_rule_is_named_with_its_line() {
    let broken = |text: &str, message: &str| {
        let error = lines(text).unwrap_err().to_string();
        assert_eq!(error, format!("a.trace, line {message}"));
    };
    let with = |body: &str| format!("{HEADER}{body}");
    broken("", "1: the file is empty");
    broken(HEADER.trim_end(), "1: has no end: the recording was cut off here; remove this line");
    broken(
        &HEADER.replace("\"version\":1", "\"version\":2"),
        "1: is \"m2cache-trace\" version 2; \"m2cache-trace\" version 1 is read",
    );
    broken(&HEADER.replace("\"count\":2", "\"count\":0"), "1: declares a run of no blocks, or of blocks without bytes");
    broken(
        &HEADER.replace("\"count\":2", "\"count\":16777216"),
        "1: declares 16777218 blocks; at most 16777216 are read",
    );
    broken(&with("0\n"), "2: comes before any pass (prompt, decode or draft)");
    broken(&with("prompt 0\n"), "2: says \"0\" where the rows of a pass belong");
    broken(&with("prompt -1\n"), "2: says \"-1\" where the rows of a pass belong");
    broken(&with("prompt 1\n0 4\n"), "3: names block 4 of 4");
    broken(&with("prompt 1\n0  1\n"), "3: has \"\" where the number of a block belongs");
    broken(&with("prompt 1\n\n"), "3: has \"\" where the number of a block belongs");
    broken(&with("prompt 1\n+1\n"), "3: has \"+1\" where the number of a block belongs");
    broken(&with("prompt 1\n99999999999\n"), "3: has \"99999999999\" where the number of a block belongs");
    broken(&with("prompt 1\n0 1"), "3: has no end: the recording was cut off here; remove this line");
    let error = lines("{\"format\":1}\n").unwrap_err().to_string();
    assert!(error.starts_with("a.trace, line 1: no header of a trace: "), "{error}");
}

#[test]
fn a_line_without_end_takes_no_memory_without_end() {
    let error = Trace::new(std::io::BufReader::new(std::io::repeat(b' ')), "a.trace".into()).unwrap_err();
    assert_eq!(error.to_string(), "a.trace, line 1: is longer than 16777216 bytes");
}

#[test]
fn hits_and_reads_are_counted_by_kind_of_pass() {
    let body = "prompt 3\n0* 1*\n2*\n3*\ndecode 1\n0 1\n2*\n3*\ndecode 1\n0 1\n2*\n3*\n";
    let outcome = run(body, policy::Kind::Fifo, 16384);
    assert_eq!((outcome.prompt.passes, outcome.prompt.rows, outcome.prompt.read_bytes), (1, 3, 16484));
    // Blocks 0 and 1 are the fixed area; 2 and 3 displace each other in a window that holds one of them.
    let decode = outcome.decode;
    assert_eq!((decode.passes, decode.accesses, decode.hits), (2, 8, 4));
    assert_eq!((decode.hit_bytes, decode.read_bytes, decode.recorded_read_bytes), (16384, 16584, 16584));
    assert_eq!(outcome.draft, Default::default());
}

#[test]
fn the_blocks_of_a_step_do_not_displace_each_other() {
    let outcome = run("decode 1\n0 1\n0 1\n", policy::Kind::Lru, 4096);
    assert_eq!((outcome.decode.hits, outcome.decode.evictions), (1, 0));
}

proptest! {
    #[test]
    fn any_bytes_are_a_trace_or_an_error(body in prop::collection::vec(prop::sample::select(b"012345*- \nprmotdec\xff".to_vec()), 0..200)) {
        let text = [HEADER.as_bytes(), &body].concat();
        let mut trace = open(&text).unwrap();
        let ends = (0..300).any(|_| !matches!(trace.next_line(), Ok(Some(_))));
        prop_assert!(ends);
    }

    #[test]
    fn any_header_is_read_or_refused(text in "\\PC{0,200}") {
        _ = Header::parse(text.as_bytes());
    }

    #[test]
    fn a_dense_cycle_through_the_fixed_policy_hits_what_the_tier_places(
        counts in prop::collection::vec((1u32..40, 1u32..30_000), 1..12), share in 0f64..1.1, passes in 1u64..4
    ) {
        let runs: Vec<String> = counts.iter().enumerate()
            .map(|(i, (count, bytes))| format!(r#"{{"section":"s","layer":{i},"bytes":{bytes},"count":{count}}}"#)).collect();
        let head = r#"{"format":"m2cache-trace","version":1,"store":null,"levels":null,"synthetic":null,"blocks":["#;
        let total: u32 = counts.iter().map(|(count, _)| count).sum();
        let sweep: String = (0..total).map(|b| format!("{b}\n")).collect();
        let text = format!("{head}{}]}}\nprompt 1\n{sweep}{}", runs.join(","), format!("decode 1\n{sweep}").repeat(passes as usize));
        let blocks = open(text.as_bytes()).unwrap().header.blocks();
        let all: u64 = blocks.iter().map(|b| b.bytes.next_multiple_of(4096) as u64).sum();
        let capacity = (share * all as f64) as u64;
        let outcome = replay(&mut open(text.as_bytes()).unwrap(), policy::Kind::Fixed, capacity).unwrap();
        let dram = Dram::place(&blocks, capacity);
        let placed = |(n, _): &(usize, &Block)| dram.find(BlockId(*n as u32)) != Place::Ring;
        let kept: u64 = blocks.iter().enumerate().filter(placed).map(|(_, b)| b.bytes as u64).sum();
        prop_assert_eq!(outcome.decode.hit_bytes, passes * kept);
        let bytes: u64 = blocks.iter().map(|b| b.bytes as u64).sum();
        prop_assert_eq!(outcome.decode.read_bytes, passes * (bytes - kept));
    }
}
