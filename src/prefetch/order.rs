//! Which step comes after which.

use std::ops::Range;

/// Steps in rising order, once or in a circle.
#[derive(Clone, Debug)]
pub struct Order {
    /// Rising and apart: a pass may have hundreds, and is asked behind every step.
    ranges: Vec<Range<usize>>,
    steps: usize,
    /// Whether the first comes behind the last.
    round: bool,
}

impl Order {
    /// A circle through the steps of all `ranges`, each once.
    pub fn circle(ranges: impl IntoIterator<Item = Range<usize>>) -> Order {
        let mut ranges: Vec<_> = ranges.into_iter().filter(|range| !range.is_empty()).collect();
        ranges.sort_by_key(|range| range.start);
        ranges.dedup_by(|next, before| {
            let meet = next.start <= before.end;
            before.end = if meet { before.end.max(next.end) } else { before.end };
            meet
        });
        Order { steps: ranges.iter().map(Range::len).sum(), ranges, round: true }
    }

    /// Steps `0..count`, and an end.
    pub fn line(count: usize) -> Order {
        Order { round: false, ..Order::circle(std::iter::once(0..count)) }
    }

    /// Steps in all.
    pub fn len(&self) -> usize {
        self.steps
    }

    /// The first step.
    pub fn first(&self) -> Option<usize> {
        self.ranges.first().map(|range| range.start)
    }

    /// The step behind `step`, whether or not that one is taken.
    pub fn after(&self, step: usize) -> Option<usize> {
        let at = self.ranges.partition_point(|range| range.end <= step + 1);
        match self.ranges.get(at) {
            Some(range) => Some(range.start.max(step + 1)),
            None if self.round => self.first(),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_goes_round_through_its_ranges() {
        let order = Order::circle([2..4, 8..9]);
        assert_eq!([2, 3, 8].map(|step| order.after(step)), [Some(3), Some(8), Some(2)]);
        assert_eq!(
            [5, 100].map(|step| order.after(step)),
            [Some(8), Some(2)],
            "a step outside leads to what would come"
        );
        assert_eq!((order.len(), Order::circle([5..5, 7..7]).after(3)), (3, None));
    }

    #[test]
    fn a_line_ends() {
        let order = Order::line(2);
        assert_eq!((order.first(), order.after(0), order.after(1), order.len()), (Some(0), Some(1), None, 2));
        assert_eq!(Order::line(0).first(), None);
    }

    proptest! {
        #[test]
        fn a_round_takes_every_step_once(ranges in prop::collection::vec((0usize..60, 0usize..9), 0..12), from in 0usize..70) {
            let ranges: Vec<_> = ranges.into_iter().map(|(start, len)| start..start + len).collect();
            let order = Order::circle(ranges.clone());
            let mut wanted: Vec<usize> = ranges.into_iter().flatten().collect();
            wanted.sort_unstable();
            wanted.dedup();
            prop_assert_eq!(order.len(), wanted.len());
            let round = std::iter::successors(order.after(from), |step| order.after(*step)).take(wanted.len());
            let behind = wanted.partition_point(|step| *step <= from);
            wanted.rotate_left(behind);
            prop_assert_eq!(round.collect::<Vec<_>>(), wanted);
        }
    }
}
