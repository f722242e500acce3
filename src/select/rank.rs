//! The order of scores, and points in it.

use crate::config::Cut;
use std::cmp::Reverse;

/// A place in the ranking of a token's neurons: those at it or before it have reached it.
///
/// Larger scores come first, equal ones (so are -0 and +0) by rising id. What is not a number comes before all numbers,
/// infinity included: it must reach the output, where it is reported, rather than vanish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    /// Of the score; see [`key`].
    key: i32,
    /// The last neuron with this score that has reached the point.
    last: Reverse<i32>,
}

/// Above the key of infinity, 0x7f80_0000.
const NOT_A_NUMBER: i32 = 0x7f80_0001;

impl Point {
    /// Before everything.
    pub const NOWHERE: Point = Point { key: i32::MAX, last: Reverse(-1) };

    /// The neuron `id`'s own.
    pub fn of(score: f32, id: usize) -> Point {
        Point { key: key(score), last: Reverse(id as i32) }
    }

    /// Behind all neurons with that score.
    pub fn behind(score: f32) -> Point {
        Point { key: key(score), last: Reverse(i32::MAX) }
    }

    /// Whether the neuron `id` with that key has reached it.
    #[inline(always)]
    pub fn reached(self, key: i32, id: i32) -> bool {
        (key > self.key) | ((key == self.key) & (id <= self.last.0))
    }
}

/// An integer in the order of scores.
#[inline(always)]
pub fn key(score: f32) -> i32 {
    // Adding +0 takes the sign from -0.
    let bits = (score + 0.0).to_bits() as i32;
    let ordered = bits ^ ((bits >> 31) as u32 >> 1) as i32;
    if score.is_nan() { NOT_A_NUMBER } else { ordered }
}

/// Where a token's ranking is cut: the points that neurons at 16, 8 and 4 bits have to reach.
pub fn points(scores: &[f32], cut: &Cut) -> [Point; 3] {
    match cut {
        Cut::Top(counts) => {
            let mut all = 0;
            counts.map(|count| {
                all += count;
                if count == 0 { Point::NOWHERE } else { highest(scores, all) }
            })
        }
        Cut::Above(above) => {
            let most = highest(scores, above.most);
            above.scores.map(|score| score.map_or(Point::NOWHERE, |score| Point::behind(score).max(most)))
        }
    }
}

/// Bits of a key that bins are by: sign, exponent and two of the mantissa; a quarter of a power of two each.
const BINNED: u32 = 11;

/// The point that exactly so many neurons reach: all, where there are no more.
///
/// Keys are counted by their upper bits, and those of one bin are sorted out: a few hundred of 11008.
fn highest(scores: &[f32], count: usize) -> Point {
    if count == 0 {
        return Point::NOWHERE;
    }
    let (bin, before) = bin_of(scores, count);
    let inside = |(id, score): (usize, &f32)| (bin_index(key(*score)) == bin).then(|| Point::of(*score, id));
    let mut points: Vec<Point> = scores.iter().enumerate().filter_map(inside).collect();
    match points.len() {
        0 => Point { key: i32::MIN, last: Reverse(i32::MAX) },
        have => *points.select_nth_unstable_by_key((count - before).min(have) - 1, |point| Reverse(*point)).1,
    }
}

/// The bin that holds the neuron with that place in the ranking, and how many are in the bins before it.
fn bin_of(scores: &[f32], count: usize) -> (usize, usize) {
    let mut bins = [0usize; 1 << BINNED];
    scores.iter().for_each(|score| bins[bin_index(key(*score))] += 1);
    let mut before = 0;
    for (bin, have) in bins.into_iter().enumerate().rev() {
        if before + have >= count {
            return (bin, before);
        }
        before += have;
    }
    (0, before)
}

fn bin_index(key: i32) -> usize {
    ((key as u32 ^ 1 << 31) >> (32 - BINNED)) as usize
}
