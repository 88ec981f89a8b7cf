//! Threads: conformance, and the exact order of sums.

use caravan_collective::{Communicator, ReduceOp, threads};

use crate::conformance::conformance;

#[test]
fn threads_conform() {
    for n_ranks in [1, 2, 3, 4, 7, 8] {
        let ran = threads::run(n_ranks, |world| {
            assert_eq!((world.size(), world.axis()), (n_ranks, "world"));
            assert_eq!(world.rank(), world.world_rank());
            conformance(&world);
        });
        assert_eq!(ran, Ok(vec![(); n_ranks]));
    }
}

#[test]
fn one_rank_alone_conforms() {
    let world = Communicator::alone();
    assert_eq!((world.rank(), world.size(), world.axis()), (0, 1, "world"));
    conformance(&world);
}

#[test]
fn results_come_in_rank_order() {
    let ranks = threads::run(5, |world| {
        std::thread::sleep(std::time::Duration::from_millis(5 * (5 - world.rank()) as u64));
        world.rank()
    });
    assert_eq!(ranks, Ok(vec![0, 1, 2, 3, 4]));
}

/// Sums whose value depends on the order, against a plain loop over the ranks; short and long, as
/// long ones are shared out.
#[test]
fn floats_are_added_in_rank_order_with_equal_bits_everywhere() {
    let sample = |rank: usize, i: usize| {
        let x = ((rank * 7919 + i * 104_729) % 1013) as f32 - 506.3;
        x * [0.37_f32, 1.3, 0.11, 2.9, 0.73, 1.7, 0.59][rank % 7]
    };
    let n_ranks = 7;
    for n in [13, 40_001] {
        let in_order = |range: std::ops::Range<usize>, order: &[usize]| -> Vec<u32> {
            let sum =
                |i| order.iter().skip(1).fold(sample(order[0], i), |sum, r| sum + sample(*r, i));
            range.map(|i| sum(i).to_bits()).collect()
        };
        let order: Vec<usize> = (0..n_ranks).collect();
        for other in [[6, 5, 4, 3, 2, 1, 0], [6, 0, 1, 2, 3, 4, 5], [1, 0, 2, 3, 4, 6, 5]] {
            assert_ne!(in_order(0..n, &order), in_order(0..n, &other), "the samples are too tame");
        }
        let ran = threads::run(n_ranks, |world| {
            let rank = world.rank();
            let mut sum: Vec<f32> = (0..n).map(|i| sample(rank, i)).collect();
            world.all_reduce(ReduceOp::Sum, &mut sum);
            let all: Vec<f32> = (0..n * n_ranks).map(|i| sample(rank, i)).collect();
            let mut own = vec![0.0; n];
            world.reduce_scatter(ReduceOp::Sum, &all, &mut own);
            let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            (bits(&sum), bits(&own))
        });
        for (rank, (sum, own)) in ran.expect("no rank fails").into_iter().enumerate() {
            assert!(sum == in_order(0..n, &order), "all_reduce on rank {rank}");
            assert!(own == in_order(rank * n..(rank + 1) * n, &order), "reduce_scatter on {rank}");
        }
    }
}

/// A sum of two u8 beyond 255 wraps, as documented.
#[test]
fn integers_wrap() {
    let sums = threads::run(2, |world| {
        let (mut small, mut large) = ([200_u8], [i64::MAX]);
        world.all_reduce(ReduceOp::Sum, &mut small);
        world.all_reduce(ReduceOp::Sum, &mut large);
        (small[0], large[0])
    });
    assert_eq!(sums, Ok(vec![(144, -2); 2]));
}
