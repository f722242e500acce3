//! Which step comes after which.

use std::ops::Range;

/// The steps that passes take, rising, in a circle.
#[derive(Clone, Debug)]
pub struct Order {
    /// Rising and apart: a pass may have hundreds, and is asked behind every step.
    ranges: Vec<Range<usize>>,
    steps: usize,
}

impl Order {
    /// A circle through the steps of all `ranges`, each once.
    pub fn new(ranges: impl IntoIterator<Item = Range<usize>>) -> Order {
        let mut ranges: Vec<_> = ranges.into_iter().filter(|range| !range.is_empty()).collect();
        ranges.sort_by_key(|range| range.start);
        ranges.dedup_by(|next, before| {
            let meet = next.start <= before.end;
            before.end = if meet { before.end.max(next.end) } else { before.end };
            meet
        });
        Order { steps: ranges.iter().map(Range::len).sum(), ranges }
    }

    /// Steps in a round.
    pub fn len(&self) -> usize {
        self.steps
    }

    /// The step behind `step`, whether or not a round takes that one: behind the last comes the first.
    pub fn after(&self, step: usize) -> usize {
        let at = self.ranges.partition_point(|range| range.end <= step + 1);
        let range = self.ranges.get(at).or(self.ranges.first());
        range.map_or(0, |range| if at < self.ranges.len() { range.start.max(step + 1) } else { range.start })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_goes_round_through_its_ranges() {
        let order = Order::new([2..4, 8..9]);
        assert_eq!((order.len(), order.after(2), order.after(3), order.after(8)), (3, 3, 8, 2));
        assert_eq!((order.after(5), order.after(100)), (8, 2), "a step outside leads to what would come");
        assert_eq!(Order::new([5..5, 7..7]).after(3), 0);
        assert_eq!(Order::new([]).len(), 0);
    }

    proptest! {
        #[test]
        fn a_round_takes_every_step_once(ranges in prop::collection::vec((0usize..60, 0usize..9), 0..12), from in 0usize..70) {
            let ranges: Vec<_> = ranges.into_iter().map(|(start, len)| start..start + len).collect();
            let order = Order::new(ranges.clone());
            let mut wanted: Vec<usize> = ranges.into_iter().flatten().collect();
            wanted.sort_unstable();
            wanted.dedup();
            prop_assert_eq!(order.len(), wanted.len());
            let round = std::iter::successors(Some(order.after(from)), |step| Some(order.after(*step))).take(wanted.len());
            let behind = wanted.partition_point(|step| *step <= from);
            wanted.rotate_left(behind);
            prop_assert_eq!(round.collect::<Vec<_>>(), wanted);
        }
    }
}
