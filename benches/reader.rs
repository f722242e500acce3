//! Random reads of a file through the engines, to be compared with fio (`reader_vs_fio.py`) or to see one block size.
//!
//!     cargo run --release --example reader -- FILE BYTES DEPTH SECONDS [ENGINE...]
//!
//! Prints one JSON line an engine: {"engine", "bytes", "depth", "gbps", "reads", "notes"}; GB = 1e9 bytes.
#![allow(missing_docs)]

use m2cache_rs::error::{Error, Result};
use m2cache_rs::io::{Choice, Opened, Read, Reader, Source, open};
use m2cache_rs::mem::{Arena, SlotId, WriteLease};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const USAGE: &str = "usage: reader FILE BYTES DEPTH SECONDS [uring|psync...]";

struct Load {
    path: PathBuf,
    bytes: usize,
    depth: usize,
    time: Duration,
    engines: Vec<String>,
}

impl Load {
    fn parse(arguments: &[String]) -> Result<Load> {
        let [path, bytes, depth, seconds, engines @ ..] = arguments else { return Err(Error::usage(USAGE)) };
        let number =
            |text: &String| text.parse::<f64>().map_err(|_| Error::usage(format!("{text}: no number; {USAGE}")));
        let engines = if engines.is_empty() { vec!["uring".into(), "psync".into()] } else { engines.to_vec() };
        Ok(Load {
            path: path.into(),
            bytes: number(bytes)? as usize,
            depth: number(depth)? as usize,
            time: Duration::from_secs_f64(number(seconds)?),
            engines,
        })
    }

    fn run(&self, engine: &str) -> Result<serde_json::Value> {
        let file = Arc::new(File::open(&self.path).map_err(|e| Error::io("opening", &self.path, e))?);
        let blocks = file.metadata().map_err(|e| Error::io("reading", &self.path, e))?.len() / self.bytes as u64;
        let arena = Arena::new(&[&vec![self.bytes; self.depth]])?;
        let source = Source { path: self.path.clone(), file };
        let Opened { mut reader, notes } = open(Choice::parse(engine)?, vec![source], &arena)?;
        let (reads, elapsed) = self.measure(reader.as_mut(), &arena, blocks)?;
        let gbps = (reads * self.bytes) as f64 / elapsed.as_secs_f64() / 1e9;
        Ok(serde_json::json!({
            "engine": reader.name(), "bytes": self.bytes, "depth": self.depth, "gbps": gbps, "reads": reads, "notes": notes
        }))
    }

    /// Keeps `depth` reads in flight until the time is up; returns how many ended before.
    fn measure(&self, reader: &mut dyn Reader, arena: &Arc<Arena>, blocks: u64) -> Result<(usize, Duration)> {
        let mut random = Random(seed());
        let mut read = |buffers: Vec<WriteLease>| Read {
            file: 0,
            offset: random.below(blocks) * self.bytes as u64,
            buffers,
            token: 0,
            urgent: false,
        };
        let slots = (0..self.depth as u32).map(|slot| Ok(vec![arena.write(SlotId(slot))?]));
        let first = slots.collect::<Result<Vec<_>>>()?.into_iter().map(&mut read).collect();
        let (begin, mut count) = (Instant::now(), 0);
        reader.submit(first);
        while begin.elapsed() < self.time {
            let mut next = Vec::with_capacity(self.depth);
            let mut done = reader.wait();
            while let Some(ended) = done {
                count += 1;
                next.push(read(ended.result?));
                done = reader.poll();
            }
            reader.submit(next);
        }
        Ok((count, begin.elapsed()))
    }
}

/// Another one every time: what was read a moment ago may lie in a cache of the host.
fn seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_nanos() as u64)
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 20) % n.max(1)
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = Load::parse(&arguments)
        .and_then(|load| load.engines.iter().try_for_each(|engine| load.run(engine).map(|line| println!("{line}"))));
    if let Err(e) = result {
        eprintln!("reader: {e}");
        std::process::exit(1);
    }
}
