//! What every engine must do, as one function that all ranks of a group call.
//!
//! Expected values are formulas of the rank and the position, small whole numbers that every
//! element type holds exactly in any order of additions.

use std::fmt::Debug;

use caravan_collective::{Communicator, Element, ReduceOp};
use half::bf16;

const LENGTHS: [usize; 4] = [0, 1, 7, 4097];

/// Beyond the piece that MPI reduces at once (1 MiB), and not a multiple of it.
const LONG: usize = 600_011;

/// Runs everything on `group`, on its halves and on halves of these, plain and checked.
///
/// # Panics
/// When anything is not as it should be.
pub(crate) fn conformance(group: &Communicator) {
    for group in [group.clone(), group.checked()] {
        all_types(&group);
        in_split_groups(&group);
        in_nested_groups(&group);
        beside_another_thread(&group);
    }
    traffic(group);
    group.barrier();
}

/// An element type with samples.
trait Sample: Element + PartialEq + Debug {
    fn of(n: usize) -> Self;
}

macro_rules! sample {
    ($($element:ty: $of:expr),+) => {
        $(impl Sample for $element {
            fn of(n: usize) -> Self {
                $of(n)
            }
        })+
    };
}
sample!(u8: |n| n as u8, i32: |n| n as i32, u32: |n| n as u32, i64: |n| n as i64, u64: |n| n as u64);
sample!(f32: |n| n as f32, f64: |n| n as f64, bf16: |n| bf16::from_f32(n as f32));

/// The sample of a rank at a position.
fn value(rank: usize, i: usize) -> usize {
    (rank * 5 + i * 7 + i / 64) % 11
}

fn values<T: Sample>(rank: usize, n: usize) -> Vec<T> {
    (0..n).map(|i| T::of(value(rank, i))).collect()
}

fn all_types(group: &Communicator) {
    all_operations::<u8>(group);
    all_operations::<i32>(group);
    all_operations::<u32>(group);
    all_operations::<i64>(group);
    all_operations::<u64>(group);
    all_operations::<f32>(group);
    all_operations::<f64>(group);
    all_operations::<bf16>(group);
    for op in [ReduceOp::Sum, ReduceOp::Max] {
        reductions::<f32>(group, LONG, op);
        reductions::<u8>(group, 3 * LONG, op);
        reductions::<bf16>(group, LONG, op);
    }
    messages::<f32>(group);
    messages::<u8>(group);
}

fn all_operations<T: Sample>(group: &Communicator) {
    for n in LENGTHS {
        group.barrier();
        for op in [ReduceOp::Sum, ReduceOp::Max, ReduceOp::Min] {
            reductions::<T>(group, n, op);
        }
        broadcast::<T>(group, n);
        gathers::<T>(group, n);
        all_to_all::<T>(group, n);
    }
}

fn reductions<T: Sample>(group: &Communicator, n: usize, op: ReduceOp) {
    let (rank, size) = (group.rank(), group.size());
    let reduced = |i: usize| {
        let values = (0..size).map(|rank| value(rank, i));
        let reduced = match op {
            ReduceOp::Sum => Some(values.sum()),
            ReduceOp::Max => values.max(),
            ReduceOp::Min => values.min(),
        };
        T::of(reduced.expect("a group has a rank"))
    };
    let mut data = values::<T>(rank, n);
    group.all_reduce(op, &mut data);
    assert_same(&data, &(0..n).map(reduced).collect::<Vec<_>>(), "all_reduce");

    let send = values::<T>(rank, size * n);
    let mut own = vec![T::of(9); n];
    group.reduce_scatter(op, &send, &mut own);
    let expected: Vec<T> = (rank * n..(rank + 1) * n).map(reduced).collect();
    assert_same(&own, &expected, "reduce_scatter");
}

fn broadcast<T: Sample>(group: &Communicator, n: usize) {
    for root in 0..group.size() {
        let mut data = values::<T>(group.rank(), n);
        group.broadcast(root, &mut data);
        assert_same(&data, &values(root, n), "broadcast");
    }
}

fn gathers<T: Sample>(group: &Communicator, n: usize) {
    let (rank, size) = (group.rank(), group.size());
    let mut all = vec![T::of(9); size * n];
    group.all_gather(&values::<T>(rank, n), &mut all);
    let expected: Vec<T> = (0..size).flat_map(|rank| values(rank, n)).collect();
    assert_same(&all, &expected, "all_gather");

    // Rank 1, and every third after it, has nothing.
    let length = |rank: usize| if rank % 3 == 1 { 0 } else { n + rank };
    let parts = group.all_gather_v(&values::<T>(rank, length(rank)));
    assert_eq!(parts.len(), size);
    for (rank, part) in parts.iter().enumerate() {
        assert_same(part, &values(rank, length(rank)), "all_gather_v");
    }
}

fn all_to_all<T: Sample>(group: &Communicator, n: usize) {
    let (rank, size) = (group.rank(), group.size());
    let sample = |from: usize, to: usize, n: usize| values::<T>(from * size + to, n);
    let send: Vec<T> = (0..size).flat_map(|to| sample(rank, to, n)).collect();
    let mut recv = vec![T::of(9); size * n];
    group.all_to_all(&send, &mut recv);
    let expected: Vec<T> = (0..size).flat_map(|from| sample(from, rank, n)).collect();
    assert_same(&recv, &expected, "all_to_all");

    let length =
        |from: usize, to: usize| if (from + 2 * to).is_multiple_of(3) { 0 } else { n + from + to };
    let send: Vec<Vec<T>> = (0..size).map(|to| sample(rank, to, length(rank, to))).collect();
    let recv = group.all_to_all_v(&send);
    assert_eq!(recv.len(), size);
    for (from, part) in recv.iter().enumerate() {
        assert_same(part, &sample(from, rank, length(from, rank)), "all_to_all_v");
    }
}

/// Everybody sends everything before anybody receives, and receives it in another order.
fn messages<T: Sample>(group: &Communicator) {
    let (rank, size) = (group.rank(), group.size());
    let (next, before) = ((rank + 1) % size, (rank + size - 1) % size);
    let lengths = [0, 1, 7, 4097, 70_001];
    let tags = [0, 5, 32_766];
    let sample =
        |from: usize, to: usize, tag: u32, n: usize| values::<T>(from + 3 * to + tag as usize, n);
    for n in lengths {
        for to in 0..size {
            for tag in tags {
                group.send(to, tag, &sample(rank, to, tag, n));
            }
        }
        // Two of one tag keep their order.
        group.send(next, 6, &[T::of(1)]);
        group.send(next, 6, &[T::of(2), T::of(2)]);
    }
    group.send(next, 8, &values::<T>(rank, LONG));
    // Collectives in between do not disturb them, also those that are made of messages.
    reductions::<bf16>(group, 7, ReduceOp::Sum);
    all_to_all::<T>(group, 7);
    for tag in tags.into_iter().rev() {
        for from in (0..size).rev() {
            for n in lengths {
                let mut data = vec![T::of(9); n];
                group.recv(from, tag, &mut data);
                assert_same(&data, &sample(from, rank, tag, n), "recv");
            }
        }
    }
    let mut long = vec![T::of(9); LONG];
    group.recv(before, 8, &mut long);
    assert_same(&long, &values(before, LONG), "recv");
    for _ in lengths {
        let (mut first, mut second) = ([T::of(9)], [T::of(9); 2]);
        group.recv(before, 6, &mut first);
        group.recv(before, 6, &mut second);
        assert_eq!((first, second), ([T::of(1)], [T::of(2); 2]));
    }
}

/// Groups of uneven sizes, in another order than the ranks.
fn in_split_groups(group: &Communicator) {
    let (rank, size) = (group.rank(), group.size());
    // Rank 0 alone, the others together and backwards.
    let color = rank.min(1) * 17;
    let part = group.split("part", color, size - rank);
    let expected = if rank == 0 { (0, 1) } else { (size - 1 - rank, size - 1) };
    assert_eq!((part.rank(), part.size()), expected);
    assert_eq!((part.axis(), part.world_rank()), ("part", group.world_rank()));
    all_operations::<f32>(&part);
    messages::<f32>(&part);

    // Equal keys keep the order of the ranks.
    let part = group.split("thirds", rank % 3, 0);
    assert_eq!((part.rank(), part.size()), (rank / 3, (size - rank % 3).div_ceil(3)));
    all_operations::<i64>(&part);
}

/// A mesh: rows and columns of a grid of two columns, and halves of the columns.
fn in_nested_groups(group: &Communicator) {
    let (rank, size) = (group.rank(), group.size());
    let row = group.split("row", rank / 2, rank);
    let column = group.split("column", rank % 2, rank);
    let half = column.split("half", column.rank() % 2, 0);
    // Interleaved: messages of the groups do not meet.
    column.send(0, 3, &[column.rank() as u64, 100]);
    row.send(0, 3, &[row.rank() as u64, 200]);
    let mut sums = [[rank as u64], [rank as u64], [rank as u64]];
    for (sum, group) in sums.iter_mut().zip([&half, &row, &column]) {
        group.all_reduce(ReduceOp::Sum, sum);
    }
    let sum =
        |is_member: &dyn Fn(usize) -> bool| (0..size).filter(|r| is_member(*r)).sum::<usize>();
    let same_half = |r: usize| r % 2 == rank % 2 && (r / 2) % 2 == (rank / 2) % 2;
    let expected = [sum(&same_half), sum(&|r| r / 2 == rank / 2), sum(&|r| r % 2 == rank % 2)];
    assert_eq!(sums, expected.map(|sum| [sum as u64]));
    for (group, mark) in [(&row, 200), (&column, 100)] {
        for from in (0..if group.rank() == 0 { group.size() } else { 0 }).rev() {
            let mut words = [0_u64; 2];
            group.recv(from, 3, &mut words);
            assert_eq!(words, [from as u64, mark]);
        }
    }
}

/// A thread communicates on a duplicate while this one does on the group.
fn beside_another_thread(group: &Communicator) {
    let beside = group.duplicate("beside");
    assert_eq!((beside.rank(), beside.size()), (group.rank(), group.size()));
    let work = |group: &Communicator, n: usize| {
        for _ in 0..10 {
            reductions::<f32>(group, n, ReduceOp::Sum);
            broadcast::<i32>(group, n);
            let (rank, size) = (group.rank(), group.size());
            group.send((rank + 1) % size, 1, &[n as u32]);
            let mut came = [0_u32];
            group.recv((rank + size - 1) % size, 1, &mut came);
            assert_eq!(came, [n as u32], "a message of the other communicator");
        }
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| work(&beside, 5000));
        work(group, 300);
        other.join().expect("the other thread's asserts hold");
    });
}

/// What is counted, from the table in the documentation.
fn traffic(group: &Communicator) {
    let (rank, size) = (group.rank(), group.size());
    let group = group.duplicate("counted");
    let others = (size - 1) as u64;
    let mut expected = group.traffic();
    assert_eq!((expected.calls, expected.bytes_sent), (0, 0));
    let mut check = |bytes: u64| {
        expected.calls += 1;
        expected.bytes_sent += bytes;
        let found = group.traffic();
        assert_eq!((found.calls, found.bytes_sent), (expected.calls, expected.bytes_sent));
        assert!(found.secs >= expected.secs && found.secs.is_finite());
        expected.secs = found.secs;
    };
    group.barrier();
    check(0);
    group.clone().broadcast(0, &mut [0_u8; 10]);
    check(if rank == 0 { others * 10 } else { 0 });
    group.all_reduce(ReduceOp::Sum, &mut [0_f32; 10]);
    check(2 * others * 40 / size as u64);
    group.reduce_scatter(ReduceOp::Sum, &vec![0_u8; 3 * size], &mut [0; 3]);
    check(others * 3);
    group.all_gather(&[0_f64; 3], &mut vec![0.0; 3 * size]);
    check(others * 24);
    group.all_gather_v(&vec![0_u8; rank]);
    check(others * rank as u64);
    group.all_to_all(&vec![0_u8; 5 * size], &mut vec![0; 5 * size]);
    check(others * 5);
    group.all_to_all_v(&(0..size).map(|to| vec![0_u8; 1 + to]).collect::<Vec<_>>());
    check((0..size).filter(|to| *to != rank).map(|to| 1 + to as u64).sum());
    let next = (rank + 1) % size;
    group.send(next, 0, &[0_u64; 2]);
    check(if next == rank { 0 } else { 16 });
    group.recv((rank + size - 1) % size, 0, &mut [0_u64; 2]);
    check(0);
}

/// Like `assert_eq!`, but prints only where two long vectors differ.
fn assert_same<T: Sample>(found: &[T], expected: &[T], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let differs = found.iter().zip(expected).position(|(found, expected)| found != expected);
    if let Some(i) = differs {
        let dtype = T::DTYPE.name();
        panic!(
            "{what} of {} {dtype}: at {i} {:?}, expected {:?}",
            found.len(),
            found[i],
            expected[i]
        );
    }
}
