//! The order in which blocks are read: every block once before any comes again, neighbours far apart.

/// An endless walk over the whole blocks of some files.
#[derive(Debug)]
pub struct Walk {
    block: u64,
    /// Whole blocks of every file.
    counts: Vec<u64>,
    total: u64,
    step: u64,
    at: u64,
}

impl Walk {
    /// Over files of these sizes; none if no block fits any. `start` is where to begin, in blocks.
    pub fn new(sizes: &[u64], block: u64, start: u64) -> Option<Walk> {
        let counts: Vec<u64> = sizes.iter().map(|size| size / block).collect();
        let total: u64 = counts.iter().sum();
        // Steps of the golden ratio leave the most even gaps; without a common factor they reach every block.
        let golden = (total as f64 * 0.618_034) as u64;
        let step = (golden.max(1)..).find(|step| common(*step, total) == 1)?;
        (total > 0).then(|| Walk { block, counts, total, step, at: start % total })
    }

    /// File and first byte of the next block.
    pub fn next_block(&mut self) -> (usize, u64) {
        let mut index = self.at;
        self.at = (self.at + self.step) % self.total;
        for (file, count) in self.counts.iter().enumerate() {
            if index < *count {
                return (file, index * self.block);
            }
            index -= count;
        }
        (0, 0)
    }
}

/// The greatest common divisor.
fn common(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { common(b, a % b) }
}
