//! Numbers per record and column: what a projection gives and an accumulation takes. Sixteen records lie side by side,
//! as a register holds them.

#![forbid(unsafe_code)]

use super::lanes::LANES;
use std::ops::Range;

/// `[micropanels][N][16]`: micropanel i holds records 16 i and following; zeros behind the last record unless a caller put
/// more there.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    records: usize,
    columns: usize,
    lanes: Vec<[f32; LANES]>,
}

impl Panel {
    /// Zeros for `records` and `columns` columns.
    pub fn new(records: usize, columns: usize) -> Panel {
        Panel { records, columns, lanes: vec![[0.0; LANES]; records.div_ceil(LANES) * columns] }
    }

    /// Columns `range` of rows `[N][width]`, as the records of a panel.
    pub fn of_rows(rows: &[f32], width: usize, range: Range<usize>) -> Panel {
        let mut panel = Panel::new(range.len(), rows.len() / width);
        for (n, row) in rows.chunks_exact(width).enumerate() {
            for (i, part) in row[range.clone()].chunks(LANES).enumerate() {
                panel.lanes[i * panel.columns + n][..part.len()].copy_from_slice(part);
            }
        }
        panel
    }

    /// Writes the panel into rows `[N][width]` from column `first` on.
    pub fn put_rows(&self, rows: &mut [f32], width: usize, first: usize) {
        for (n, row) in rows.chunks_exact_mut(width).enumerate() {
            let row = &mut row[first..first + self.records];
            for (i, part) in row.chunks_mut(LANES).enumerate() {
                part.copy_from_slice(&self.lanes[i * self.columns + n][..part.len()]);
            }
        }
    }

    /// Records.
    pub fn records(&self) -> usize {
        self.records
    }

    /// Columns, N.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// All numbers in the order they lie in.
    pub fn values_mut(&mut self) -> &mut [f32] {
        self.lanes.as_flattened_mut()
    }

    /// `[micropanels][N]`.
    pub fn micropanels(&self) -> &[[f32; LANES]] {
        &self.lanes
    }

    /// `[micropanels][N]`.
    pub fn micropanels_mut(&mut self) -> &mut [[f32; LANES]] {
        &mut self.lanes
    }

    /// The numbers of column `n`, by record.
    pub fn column(&self, n: usize) -> impl Iterator<Item = f32> + '_ {
        self.lanes.iter().skip(n).step_by(self.columns.max(1)).flatten().take(self.records).copied()
    }

    /// The records at `places`, in that order.
    ///
    /// # Panics
    /// At a place behind the last record.
    pub fn pick(&self, places: &[u32]) -> Panel {
        assert!(places.iter().all(|place| (*place as usize) < self.records), "a place behind {} records", self.records);
        let mut picked = Panel::new(places.len(), self.columns);
        let micropanels = picked.lanes.chunks_exact_mut(self.columns.max(1));
        for (to, places) in micropanels.zip(places.chunks(LANES)) {
            for (lane, place) in places.iter().map(|place| *place as usize).enumerate() {
                let from = &self.lanes[place / LANES * self.columns..][..self.columns];
                to.iter_mut().zip(from).for_each(|(to, from)| to[lane] = from[place % LANES]);
            }
        }
        picked
    }

    /// Writes +0 over record `r` in every column `n` whose bit n of `used[r]` is 0.
    ///
    /// # Panics
    /// If `used` is not for these records, or there are more columns than bits.
    pub fn mask(&mut self, used: &[u32]) {
        assert!(used.len() == self.records, "{} masks of {} records", used.len(), self.records);
        assert!(self.columns <= u32::BITS as usize, "{} columns, more than bits of a mask", self.columns);
        let micropanels = self.lanes.chunks_exact_mut(self.columns.max(1));
        for (lanes, used) in micropanels.zip(used.chunks(LANES)) {
            for (n, lanes) in lanes.iter_mut().enumerate() {
                let unused = |used: &u32| used >> n & 1 == 0;
                lanes.iter_mut().zip(used).filter(|(_, used)| unused(used)).for_each(|(value, _)| *value = 0.0);
            }
        }
    }

    /// Adds `bias[r]` to record `r` in every column.
    pub fn add_bias(&mut self, bias: &[f32]) {
        for (lanes, bias) in self.lanes.chunks_exact_mut(self.columns.max(1)).zip(bias.chunks(LANES)) {
            for lanes in lanes {
                lanes.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_survive_the_way_through_a_panel(width in 1usize..70, columns in 1usize..5, cut in 0usize..70, len in 0usize..70) {
            let rows: Vec<f32> = (0..width * columns).map(|i| i as f32 + 1.0).collect();
            let (first, len) = (cut.min(width), len.min(width - cut.min(width)));
            let mut panel = Panel::of_rows(&rows, width, first..first + len);
            let mut back = vec![0.0; rows.len()];
            panel.put_rows(&mut back, width, first);
            for n in 0..columns {
                let row = &rows[n * width..][..width];
                prop_assert_eq!(&panel.column(n).collect::<Vec<_>>(), &row[first..first + len]);
                let zeroed = (0..width).map(|i| if (first..first + len).contains(&i) { row[i] } else { 0.0 });
                prop_assert_eq!(&back[n * width..][..width], &zeroed.collect::<Vec<_>>());
            }
            panel.add_bias(&vec![0.5; len]);
            prop_assert!(panel.column(0).zip(&rows[first..]).all(|(have, row)| have == row + 0.5));
        }

        #[test]
        fn picked_and_masked_records_are_those_of_their_places_and_columns(
            records in 1usize..70, columns in 0usize..33, places in prop::collection::vec((any::<u32>(), any::<u32>()), 0..70),
        ) {
            let (places, used): (Vec<u32>, Vec<u32>) = places.into_iter().map(|(at, used)| (at % records as u32, used)).unzip();
            let mut panel = Panel::new(records, columns);
            panel.values_mut().iter_mut().enumerate().for_each(|(i, value)| *value = if i % 9 == 0 { f32::NAN } else { -1.5 - i as f32 });
            let mut picked = panel.pick(&places);
            prop_assert_eq!((picked.records(), picked.columns()), (places.len(), columns));
            let bits = |panel: &Panel, n| panel.column(n).map(f32::to_bits).collect::<Vec<_>>();
            for n in 0..columns {
                let all = bits(&panel, n);
                prop_assert_eq!(bits(&picked, n), places.iter().map(|at| all[*at as usize]).collect::<Vec<_>>());
            }
            picked.mask(&used);
            for n in 0..columns {
                let all = bits(&panel, n);
                let want = places.iter().zip(&used).map(|(at, used)| if used >> n & 1 == 1 { all[*at as usize] } else { 0 });
                prop_assert_eq!(bits(&picked, n), want.collect::<Vec<_>>());
            }
        }
    }
}
