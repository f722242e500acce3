//! The order of scores, and points in it.

use super::shared::{Team, shared};
use crate::config::Cut;
use std::cmp::Reverse;

/// A place in the ranking of a token's neurons, greater the fewer neurons are before it: those at it or before it have
/// reached it.
///
/// Larger scores come first, equal ones (so are -0 and +0) by rising id. What is not a number comes before all numbers,
/// infinity included: it must reach the output, where it is reported, rather than vanish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point(
    /// The key of the score, and below it what is left of the ids behind the last that has reached the point.
    i64,
);

/// Above the key of infinity, 0x7f80_0000.
const NOT_A_NUMBER: i32 = 0x7f80_0001;

/// The last of all ids.
const LAST: i32 = i32::MAX;

impl Point {
    /// Before everything.
    pub const NOWHERE: Point = Point::new(i32::MAX, LAST);

    /// Of the neurons with that key, those up to the id `last` have reached it.
    const fn new(key: i32, last: i32) -> Point {
        Point((key as i64) << 32 | (LAST - last) as i64)
    }

    /// Behind all neurons with that score.
    fn behind(score: f32) -> Point {
        Point::new(key(score), LAST)
    }

    /// Adds `bit` to those neurons that have reached it, from the id `first` on.
    #[inline]
    pub fn mark(self, keys: &[i32], first: usize, bit: u32, used: &mut [u32]) {
        let (least, last) = ((self.0 >> 32) as i32, LAST - self.0 as i32);
        for (i, (used, key)) in used.iter_mut().zip(keys).enumerate() {
            // Without branches: half of them would be foretold wrongly.
            let reached = (*key > least) | ((*key == least) & ((first + i) as i32 <= last));
            *used |= if reached { bit } else { 0 };
        }
    }
}

/// An integer in the order of scores.
#[inline(always)]
fn key(score: f32) -> i32 {
    // Adding +0 takes the sign from -0.
    let bits = (score + 0.0).to_bits() as i32;
    let ordered = bits ^ ((bits >> 31) as u32 >> 1) as i32;
    if score.is_nan() { NOT_A_NUMBER } else { ordered }
}

/// The keys of a token's scores, in the memory of `keys`.
pub fn keys_into(scores: &[f32], keys: &mut Vec<i32>) {
    keys.clear();
    keys.extend(scores.iter().map(|score| key(*score)));
}

/// Neurons of a token that lie together.
#[derive(Debug)]
pub struct Part {
    /// The id of the first.
    first: usize,
    keys: Vec<i32>,
    /// How many keys are in each bin.
    bins: Vec<u32>,
}

impl Part {
    /// Of some scores, the first of which is that of neuron `first`.
    pub fn new(scores: &[f32], first: usize) -> Part {
        let mut keys = Vec::with_capacity(scores.len());
        keys_into(scores, &mut keys);
        Part { first, bins: bins(&keys), keys }
    }
}

/// Where a token's ranking is cut: the points that neurons at 16, 8 and 4 bits have to reach, none less than the next
/// unless that is nowhere.
pub fn points(team: Team, parts: &[Part], cut: &Cut) -> [Point; 3] {
    match cut {
        Cut::Top(counts) => {
            let mut end = 0;
            let ends = counts.map(|count| {
                end += count;
                if count == 0 { 0 } else { end }
            });
            highest(team, parts, ends)
        }
        Cut::Above(above) => {
            let points = above.scores.map(|score| score.map_or(Point::NOWHERE, Point::behind));
            let [most] = capped(team, parts, points, above.most);
            points.map(|point| point.max(most))
        }
    }
}

/// The point that `most` neurons reach; a point that all reach where no more reach any of `points`, as is usual.
fn capped(team: Team, parts: &[Part], points: [Point; 3], most: usize) -> [Point; 1] {
    let least = points.into_iter().min().map_or(i32::MAX, |point| (point.0 >> 32) as i32);
    let reach = |part: &Part| part.keys.iter().map(|key| u32::from(*key >= least)).sum::<u32>();
    let reach: u32 = parts.iter().map(reach).sum();
    if reach as usize <= most { [Point::new(i32::MIN, LAST)] } else { highest(team, parts, [most]) }
}

/// Bits of a key that bins are by: sign, exponent and two of the mantissa; a quarter of a power of two each.
const BINNED: u32 = 11;

/// Points that exactly so many neurons reach: all, where there are no more; nowhere for none.
///
/// Keys are counted by their upper bits, and those of one bin are sorted out: a few hundred of 11008.
fn highest<const K: usize>(team: Team, parts: &[Part], counts: [usize; K]) -> [Point; K] {
    let all: usize = parts.iter().map(|part| part.keys.len()).sum();
    let mut bins = vec![0; 1 << BINNED];
    parts.iter().for_each(|part| bins.iter_mut().zip(&part.bins).for_each(|(sum, bin)| *sum += bin));
    counts.map(|count| match count {
        0 => Point::NOWHERE,
        count if count >= all => Point::new(i32::MIN, LAST),
        count => {
            let (bin, before) = bin_of(&bins, count);
            let mut found = shared(team, parts.iter().collect(), |part| inside(part, bin)).concat();
            *found.select_nth_unstable_by_key(count - before - 1, |point| Reverse(*point)).1
        }
    })
}

/// How many keys are in each bin.
fn bins(keys: &[i32]) -> Vec<u32> {
    // Two tables: neighbours are often of one bin, and a count waits for the one before it.
    let mut bins = [[0u32; 1 << BINNED]; 2];
    let (pairs, last) = keys.as_chunks::<2>();
    for pair in pairs {
        bins[0][bin_index(pair[0])] += 1;
        bins[1][bin_index(pair[1])] += 1;
    }
    last.iter().for_each(|key| bins[0][bin_index(*key)] += 1);
    bins[0].iter().zip(&bins[1]).map(|(a, b)| a + b).collect()
}

/// The bin that holds the neuron with that place in the ranking, and how many are in the bins before it.
fn bin_of(bins: &[u32], count: usize) -> (usize, usize) {
    let mut before = 0;
    for (bin, have) in bins.iter().enumerate().rev() {
        if before + *have as usize >= count {
            return (bin, before);
        }
        before += *have as usize;
    }
    (0, before)
}

/// The neurons of a bin. All are written and those of other bins written over: no branch to foretell.
fn inside(part: &Part, bin: usize) -> Vec<Point> {
    let have = part.bins[bin] as usize;
    let mut points = vec![Point::NOWHERE; have + 1];
    let mut next = 0;
    for (id, key) in (part.first..).zip(&part.keys) {
        points[next] = Point::new(*key, id as i32);
        next += usize::from(bin_index(*key) == bin);
    }
    points.truncate(have);
    points
}

#[inline(always)]
fn bin_index(key: i32) -> usize {
    ((key as u32 ^ 1 << 31) >> (32 - BINNED)) as usize
}
