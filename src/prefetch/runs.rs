//! From wanted records to reads: neighbours together, and what lies between them where reading it is cheaper than a
//! second read.

use super::want::Span;
use crate::io::ALIGN;

/// What a read costs beside its bytes, in bytes that the disk brings in that time (benches/NOTES.md, reads of runs).
pub const REQUEST: usize = 32 << 10;

/// The cheapest reads that bring some records, rising places in their block: each costs its pages and `request` bytes. No
/// two of them share a page.
pub fn spans(records: &[u32], stride: usize, request: usize) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for record in records {
        let begin = *record as usize * stride;
        // Costs add up, so joining wherever that is no dearer is the cheapest of all ways.
        match spans.last_mut().filter(|span| between(span, begin) <= request) {
            Some(span) => (span.len, span.useful) = (begin + stride - span.begin, span.useful + stride),
            None => spans.push(Span { begin, len: stride, useful: stride }),
        }
    }
    spans
}

/// Bytes of the pages between a span and the record that begins at `begin`.
fn between(span: &Span, begin: usize) -> usize {
    let end = (span.begin + span.len).next_multiple_of(ALIGN);
    (begin - begin % ALIGN).saturating_sub(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::CHUNK;
    use proptest::prelude::*;

    fn pages(begin: usize, len: usize) -> usize {
        (begin + len).next_multiple_of(ALIGN) - begin / ALIGN * ALIGN
    }

    fn cost(spans: &[Span], request: usize) -> usize {
        spans.iter().map(|span| request + pages(span.begin, span.len)).sum()
    }

    proptest! {
        #[test]
        fn they_bring_what_is_wanted_at_the_least_cost(wanted in prop::collection::btree_set(0..CHUNK as u32, 1..CHUNK),
                                                       stride in (1usize..200).prop_map(|n| 64 * n), request in 0usize..100_000) {
            let records: Vec<u32> = wanted.iter().copied().collect();
            let spans = spans(&records, stride, request);
            let of = |span: &Span| (span.begin / stride) as u32..((span.begin + span.len) / stride) as u32;
            for span in &spans {
                prop_assert!(span.begin % stride == 0 && span.len % stride == 0 && span.begin + span.len <= CHUNK * stride);
                let range = of(span);
                prop_assert!(wanted.contains(&range.start) && wanted.contains(&(range.end - 1)), "no more than it must");
                prop_assert_eq!(span.useful, range.filter(|r| wanted.contains(r)).count() * stride);
            }
            prop_assert_eq!(spans.iter().map(|span| span.useful).sum::<usize>(), records.len() * stride, "all of it, once");
            for pair in spans.windows(2) {
                prop_assert!((pair[0].begin + pair[0].len).next_multiple_of(ALIGN) <= pair[1].begin / ALIGN * ALIGN);
            }
            let alone: usize = records.iter().map(|r| request + pages(*r as usize * stride, stride)).sum();
            let whole = request + (CHUNK * stride).next_multiple_of(ALIGN);
            prop_assert!(cost(&spans, request) <= alone.min(whole));
        }
    }

    #[test]
    fn small_gaps_are_read_and_large_ones_left_out() {
        let span = |first: usize, records: usize, wanted: usize| Span {
            begin: first * ALIGN,
            len: records * ALIGN,
            useful: wanted * ALIGN,
        };
        assert_eq!(spans(&[3, 5, 9], ALIGN, ALIGN), [span(3, 3, 2), span(9, 1, 1)]);
        assert_eq!(spans(&[3, 5, 9], ALIGN, 3 * ALIGN), [span(3, 7, 3)]);
        assert_eq!(spans(&[3, 4, 6], ALIGN, 0), [span(3, 2, 2), span(6, 1, 1)]);
        assert_eq!(spans(&[], ALIGN, 0), []);
    }
}
