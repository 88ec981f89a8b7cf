use proptest::prelude::*;

use super::*;

fn outcome(shape: &[usize], shards: &[Shard]) -> Result<(), String> {
    const FILES: [&str; 5] = ["file 0", "file 1", "file 2", "file 3", "file 4"];
    let named: Vec<_> = shards.iter().cloned().zip(FILES.iter().copied().cycle()).collect();
    check(shape.iter().product(), &named)
}

#[test]
fn boxes_and_ranges_must_tile() {
    let all = || Shard::whole(&[4, 6]);
    let left = || all().slice(1, 0..2);
    let right = || all().slice(1, 2..6);
    assert_eq!(outcome(&[4, 6], &[all()]), Ok(()));
    assert_eq!(outcome(&[4, 6], &[right(), left()]), Ok(()));
    let mixed = [
        right().elements(9..16),
        left().slice(0, 0..1),
        right().elements(0..9),
        left().slice(0, 1..4).elements(5..6),
        left().slice(0, 1..4).elements(0..5),
    ];
    assert_eq!(outcome(&[4, 6], &mixed), Ok(()));
    // Shards without elements are no matter, wherever they lie.
    let empty = [all(), left().elements(3..3), right().slice(0, 2..2)];
    assert_eq!(outcome(&[4, 6], &empty), Ok(()));
    assert_eq!(outcome(&[0, 6], &[]), Ok(()));
    assert_eq!(outcome(&[], &[Shard::whole(&[])]), Ok(()));

    let refused = |shards: &[Shard], expected: &str| {
        let message = outcome(&[4, 6], shards).unwrap_err();
        assert_eq!(message, expected);
    };
    refused(&[left()], "8 of its 24 elements were saved: [0..4, 0..2]");
    refused(&[], "0 of its 24 elements were saved: none");
    refused(&[left(), all()], "[0..4, 0..2] in `file 0` and [0..4, 0..6] in `file 1` overlap");
    refused(
        &[right(), left(), right()],
        "elements 0..16 of [0..4, 2..6] are in `file 0` and in `file 2`",
    );
    refused(
        &[left(), right().elements(0..9), right().elements(7..16)],
        "elements 7..9 of [0..4, 2..6] are in `file 1` and in `file 2`",
    );
    refused(
        &[left(), right().elements(0..9), right().elements(10..16)],
        "elements 9..10 of [0..4, 2..6] are in no file",
    );
    refused(&[left(), right().elements(0..9)], "elements 9..16 of [0..4, 2..6] are in no file");
    refused(&[right(), left().elements(1..8)], "elements 0..1 of [0..4, 0..2] are in no file");
    // The missing and the doubled elements are equally many.
    refused(
        &[left(), all().slice(1, 1..3), all().slice(1, 3..5)],
        "[0..4, 0..2] in `file 0` and [0..4, 1..3] in `file 1` overlap",
    );
}

#[test]
fn absurdly_many_boxes_are_refused() {
    let shape = [5000];
    let shards: Vec<_> = (0..5000).map(|i| Shard::whole(&shape).slice(0, i..i + 1)).collect();
    let message = outcome(&shape, &shards).unwrap_err();
    assert_eq!(message, "it is cut into 5000 boxes, the limit is 4096");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// What the check lets through covers each element once, counted one by one.
    #[test]
    fn nothing_that_does_not_tile_passes(
        (rows, columns) in (1usize..4, 1usize..4),
        cuts in prop::collection::vec((0usize..4, 0usize..4, 0usize..4, 0usize..4, 0usize..10, 0usize..10), 1..5),
    ) {
        let shards: Vec<Shard> = cuts
            .into_iter()
            .filter_map(|(r, h, c, w, from, len)| {
                let (extent, n) = ([h, w], h * w);
                // Often all of the box, so that many sets do tile.
                let flat = if from + len > n { 0..n } else { from..from + len };
                Shard::new(&[rows, columns], &[r, c], &extent, flat).ok()
            })
            .collect();
        let mut times = vec![0; rows * columns];
        for run in shards.iter().flat_map(Shard::runs) {
            times[run.global..run.global + run.len].iter_mut().for_each(|n| *n += 1);
        }
        let covered_once = times.iter().all(|&n| n == 1);
        // Stricter than that only where a box meets another one.
        let boxes_apart = shards.iter().enumerate().all(|(i, a)| {
            shards[i + 1..].iter().all(|b| {
                a.is_empty()
                    || b.is_empty()
                    || (a.start(), a.extent()) == (b.start(), b.extent())
                    || !boxes_meet((a.start(), a.extent()), (b.start(), b.extent()))
            })
        });
        prop_assert_eq!(outcome(&[rows, columns], &shards).is_ok(), covered_once && boxes_apart);
    }
}
