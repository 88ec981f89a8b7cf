//! Every element of a tensor lies in exactly one shard.
//!
//! Held on what ranks report before it is committed, and on every manifest before it is believed.
//! Layouts cut twice, so the check has two levels as well: boxes of one tensor are equal or have no
//! element in common, and the ranges of one box follow each other without gap. The work depends on the
//! number of shards, never on the size that a manifest claims for a tensor.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::shard::{Shard, boxes_meet};

/// More different boxes of one tensor are refused: each is compared with each, and no group of ranks
/// that share a tensor by slices is as large.
const MAX_BOXES: usize = 4096;

/// Boxes that a message lists.
const SHOWN: usize = 8;

/// The ranges of a box, and the file that holds each.
type Ranges<'a> = Vec<(Range<usize>, &'a str)>;

/// Says what is missing or doubled, if `shards` of a tensor of `n` elements, each with the name of its
/// file, are not the whole of it.
pub(crate) fn check(n: usize, shards: &[(Shard, &str)]) -> Result<(), String> {
    let mut boxes: BTreeMap<(&[usize], &[usize]), Ranges<'_>> = BTreeMap::new();
    for (shard, file) in shards.iter().filter(|(shard, _)| !shard.is_empty()) {
        boxes.entry((shard.start(), shard.extent())).or_default().push((shard.flat(), file));
    }
    if boxes.len() > MAX_BOXES {
        return Err(format!("it is cut into {} boxes, the limit is {MAX_BOXES}", boxes.len()));
    }
    let boxes: Vec<_> = boxes.into_iter().collect();
    for (index, (a, in_a)) in boxes.iter().enumerate() {
        for (b, in_b) in &boxes[index + 1..] {
            if boxes_meet(*a, *b) {
                return Err(format!(
                    "{} in `{}` and {} in `{}` overlap",
                    name(*a),
                    in_a[0].1,
                    name(*b),
                    in_b[0].1
                ));
            }
        }
    }
    // They have nothing in common, so this is at most `n`.
    let held: usize = boxes.iter().map(|((_, extent), _)| volume(extent)).sum();
    if held != n {
        let mut listed: Vec<String> = boxes.iter().take(SHOWN).map(|(b, _)| name(*b)).collect();
        if boxes.len() > SHOWN {
            listed.push("...".to_owned());
        }
        let listed = if listed.is_empty() { "none".to_owned() } else { listed.join(", ") };
        return Err(format!("{held} of its {n} elements were saved: {listed}"));
    }
    boxes.into_iter().try_for_each(|(b, ranges)| check_ranges(b, ranges))
}

/// The ranges of one box follow each other from its first element to its last.
fn check_ranges(of: (&[usize], &[usize]), mut ranges: Ranges<'_>) -> Result<(), String> {
    ranges.sort_by_key(|(range, _)| (range.start, range.end));
    let gap = |from: usize, to: usize| {
        Err(format!("elements {from}..{to} of {} are in no file", name(of)))
    };
    let (mut next, mut last) = (0, "");
    for (range, file) in ranges {
        if range.start < next {
            let end = next.min(range.end);
            return Err(format!(
                "elements {}..{end} of {} are in `{last}` and in `{file}`",
                range.start,
                name(of)
            ));
        }
        if range.start > next {
            return gap(next, range.start);
        }
        (next, last) = (range.end, file);
    }
    let n = volume(of.1);
    if next == n { Ok(()) } else { gap(next, n) }
}

fn volume(extent: &[usize]) -> usize {
    extent.iter().product()
}

/// `[0..4, 2..4]`
fn name((start, extent): (&[usize], &[usize])) -> String {
    let dims: Vec<_> = start.iter().zip(extent).map(|(&s, &e)| s..s + e).collect();
    format!("{dims:?}")
}

#[cfg(test)]
mod tests;
