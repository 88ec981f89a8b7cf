use proptest::prelude::*;

use super::overlaps::Overlap;
use super::*;

/// Global positions of a shard's elements, one after the other, by counting through the box.
fn naive(shard: &Shard) -> Vec<usize> {
    let mut box_elements = Vec::new();
    let n: usize = shard.shape.iter().product();
    for position in 0..n {
        let mut rest = position;
        let mut index = vec![0; shard.shape.len()];
        for dim in (0..shard.shape.len()).rev() {
            index[dim] = rest % shard.shape[dim];
            rest /= shard.shape[dim];
        }
        let inside = |dim: usize| {
            (shard.start[dim]..shard.start[dim] + shard.extent[dim]).contains(&index[dim])
        };
        if (0..index.len()).all(inside) {
            box_elements.push(position);
        }
    }
    box_elements[shard.flat.clone()].to_vec()
}

/// `low..high` within `0..=n`.
fn range_within(n: usize) -> impl Strategy<Value = Range<usize>> {
    (0..=n, 0..=n).prop_map(|(a, b)| a.min(b)..a.max(b))
}

fn shape() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![15 => 1usize..5, 1 => Just(0)], 0..5)
}

/// Any shard of a tensor of `shape`; often whole in a dim, as real ones are.
fn shard_of(shape: Vec<usize>) -> impl Strategy<Value = Shard> {
    let dims: Vec<_> =
        shape.iter().map(|&n| prop_oneof![Just(0..n).boxed(), range_within(n).boxed()]).collect();
    dims.prop_flat_map(move |ranges| {
        let start: Vec<usize> = ranges.iter().map(|r| r.start).collect();
        let extent: Vec<usize> = ranges.iter().map(ExactSizeIterator::len).collect();
        let n = extent.iter().product();
        let shape = shape.clone();
        prop_oneof![Just(0..n).boxed(), range_within(n).boxed()]
            .prop_map(move |flat| Shard::new(&shape, &start, &extent, flat).unwrap())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn runs_are_the_elements_that_counting_finds(shard in shape().prop_flat_map(shard_of)) {
        let expected = naive(&shard);
        let runs: Vec<Run> = shard.runs().collect();
        prop_assert_eq!(shard.runs().len(), runs.len());
        let mut found = Vec::new();
        for run in &runs {
            prop_assert_eq!(run.local, found.len());
            prop_assert!(run.len > 0);
            found.extend(run.global..run.global + run.len);
        }
        prop_assert_eq!(&found, &expected);
        // As long as they can be.
        for pair in runs.windows(2) {
            prop_assert!(pair[0].global_end() < pair[1].global);
        }
    }

    #[test]
    fn overlaps_are_the_elements_that_counting_finds(
        (a, b) in shape().prop_flat_map(|shape| (shard_of(shape.clone()), shard_of(shape)))
    ) {
        let (here, there) = (naive(&a), naive(&b));
        let mut expected = Vec::new();
        for (i, position) in here.iter().enumerate() {
            if let Some(j) = there.iter().position(|other| other == position) {
                expected.push((i, j));
            }
        }
        let mut found = Vec::new();
        for overlap in a.overlaps(&b) {
            found.extend((0..overlap.len).map(|k| (overlap.here + k, overlap.there + k)));
        }
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn a_tensor_too_large_to_count_through_costs_nothing() {
    let n = 1 << 30;
    let columns = Shard::whole(&[n, n]).slice(1, 7..9);
    assert_eq!(columns.runs().len(), n);
    let last = columns.run(n - 1);
    assert_eq!(last, Run { global: (n - 1) * n + 7, local: 2 * (n - 1), len: 2 });
    // The last row of it alone, and columns beside it: found, and found absent, at once.
    let last_row = Shard::whole(&[n, n]).elements((n - 1) * n..n * n);
    let overlaps: Vec<Overlap> = columns.overlaps(&last_row).collect();
    assert_eq!(overlaps, [Overlap { here: 2 * (n - 1), there: 7, len: 2 }]);
    assert_eq!(columns.overlaps(&Shard::whole(&[n, n]).slice(1, 9..n)).count(), 0);
}

#[test]
fn parts_outside_their_tensor_are_refused() {
    let message = |shape: &[usize], start: &[usize], extent: &[usize], flat: Range<usize>| {
        Shard::new(shape, start, extent, flat).unwrap_err().to_string()
    };
    let text = message(&[4, 3], &[0, 1], &[4, 3], 0..12);
    assert!(
        text.contains("of a tensor of shape [4, 3]: 3 from 1 on leave dim 1 of 3\nhelp: "),
        "{text}"
    );
    for (shape, start, extent, flat, expected) in [
        (&[4, 3][..], &[0][..], &[4][..], 0..4, "does not have the tensor's 2 dims"),
        (&[4, 3], &[0, 0], &[4], 0..4, "does not have the tensor's 2 dims"),
        (&[4], &[usize::MAX], &[2], 0..1, "2 from 18446744073709551615 on leave dim 0 of 4"),
        (&[4], &[1], &[2], 0..3, "0..3 leaves the 2 elements of the box"),
        #[allow(clippy::reversed_empty_ranges, reason = "that is what is refused")]
        (&[4], &[1], &[2], 2..1, "2..1 leaves the 2 elements of the box"),
        (&[usize::MAX, 2], &[0, 0], &[1, 1], 0..1, "impossibly large"),
        (&[], &[], &[], 0..2, "0..2 leaves the 1 elements of the box"),
    ] {
        let text = message(shape, start, extent, flat);
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
#[should_panic(expected = "2..5 of dim 0 leaves 0..4")]
fn a_slice_outside_its_dim_panics() {
    let _ = Shard::whole(&[4]).slice(0, 2..5);
}

#[test]
#[should_panic(expected = "slice a box before its elements are cut")]
fn a_slice_after_a_range_panics() {
    let _ = Shard::whole(&[4, 4]).elements(0..3).slice(0, 0..1);
}

#[test]
#[should_panic(expected = "3..9 of 8 elements")]
fn elements_outside_the_box_panic() {
    let _ = Shard::whole(&[4, 4]).slice(0, 1..3).elements(3..9);
}
