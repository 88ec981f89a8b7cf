//! Ranks as threads of this process: the reference that other engines are held against.
//!
//! Everything is one exchange: each rank deposits bytes and takes those of all ranks. Reductions
//! then run in the order of the ranks, so that all ranks have the same bits on every run.
//!
//! A rank is an operating system thread of its own and may use the shared pool of rayon like any
//! caller; it never waits on one of the pool's workers.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use hub::{Hub, Parcel};
use world::World;

use super::{Fault, Receive, Transport, deliver};
use crate::communicator::Communicator;
use crate::element::{DType, ReduceOp, reduce};
pub use crate::error::RankFailed;

mod hub;
mod world;

/// Bytes of a rank's stack, as the main thread has by default.
const STACK_BYTES: usize = 8 << 20;

/// Bytes from which a reduction is shared out among the ranks instead of done by each.
const SHARED_REDUCTION_BYTES: usize = 16 << 10;

thread_local! {
    /// Whether this is the thread that runs the body of a rank: `run` sees its panic.
    static RUNS_A_BODY: Cell<bool> = const { Cell::new(false) };
}

/// Runs `body` on `n_ranks` ranks, each a thread, and returns their results in rank order.
///
/// When a rank panics or aborts, those that wait for any rank, now or later, panic too, without
/// printing anything. A rank that returns while others wait for it counts as failed. A thread
/// that a rank starts itself should own a communicator: when it panics while it holds one, that
/// fails the rank.
///
/// # Errors
/// The first rank that failed, with its message.
///
/// # Panics
/// When `n_ranks` is 0, or the system has no more threads.
pub fn run<R: Send>(
    n_ranks: usize,
    body: impl Fn(Communicator) -> R + Sync,
) -> Result<Vec<R>, RankFailed> {
    assert!(n_ranks > 0, "a group has at least one rank");
    let world = Arc::new(World::new(n_ranks));
    let hub = Hub::new(&world, (0..n_ranks).collect());
    let run_rank = |rank: usize| {
        RUNS_A_BODY.set(true);
        let group = Communicator::over(Box::new(Threads { hub: Arc::clone(&hub), rank }), "world");
        match catch_unwind(AssertUnwindSafe(|| body(group))) {
            Ok(result) => {
                world.end(rank);
                Some(result)
            }
            Err(payload) => {
                // An earlier failure of another rank stays the first.
                let _ = world.fail(rank, panic_text(&*payload));
                None
            }
        }
    };
    let run_rank = &run_rank;
    let results: Vec<Option<R>> = std::thread::scope(|scope| {
        let start = |rank: usize| {
            std::thread::Builder::new()
                .name(format!("rank {rank}"))
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, move || run_rank(rank))
                .expect("the system has no more threads")
        };
        let ranks: Vec<_> = (0..n_ranks).map(start).collect();
        ranks.into_iter().map(|rank| rank.join().expect("panics are caught inside")).collect()
    });
    match world.failed() {
        Some(failed) => Err(failed),
        None => Ok(results.into_iter().flatten().collect()),
    }
}

/// A world of one rank.
pub(crate) fn alone() -> Box<dyn Transport> {
    let hub = Hub::new(&Arc::new(World::new(1)), vec![0]);
    Box::new(Threads { hub, rank: 0 })
}

/// What a panic said.
fn panic_text(payload: &(dyn std::any::Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("it panicked")
}

/// One rank's view of a group.
#[derive(Debug)]
struct Threads {
    hub: Arc<Hub>,
    rank: usize,
}

impl Threads {
    /// Sends the same bytes to all, and hands those of all ranks to `take`.
    fn exchange<R>(&self, bytes: &[u8], take: impl FnOnce(&[&[u8]]) -> R) -> Result<R, Fault> {
        self.exchange_parcels(Parcel { parts: vec![bytes.into()], hub: None }, 0, take)
    }

    /// Sends a part to each, and hands what came from each rank to `take`.
    fn exchange_parts<'a, R>(
        &self,
        send: impl Iterator<Item = &'a [u8]>,
        take: impl FnOnce(&[&[u8]]) -> R,
    ) -> Result<R, Fault> {
        let parcel = Parcel { parts: send.map(Box::from).collect(), hub: None };
        self.exchange_parcels(parcel, self.rank, take)
    }

    /// Hands part `index` of every parcel to `take`.
    fn exchange_parcels<R>(
        &self,
        parcel: Parcel,
        index: usize,
        take: impl FnOnce(&[&[u8]]) -> R,
    ) -> Result<R, Fault> {
        let parcels = self.hub.exchange(self.rank, parcel)?;
        let parts: Vec<&[u8]> = parcels.iter().map(|parcel| &*parcel.parts[index]).collect();
        Ok(take(&parts))
    }

    /// Makes the group of `members`, ranks of this group, all of whom call this.
    fn group(&self, members: &[usize]) -> Result<Box<dyn Transport>, Fault> {
        let leads = members[0] == self.rank;
        let world_ranks = || members.iter().map(|rank| self.hub.members[*rank]).collect();
        let hub = leads.then(|| Hub::new(&self.hub.world, world_ranks()));
        let parcels = self.hub.exchange(self.rank, Parcel { parts: Vec::new(), hub })?;
        let hub = parcels[members[0]].hub.as_ref().expect("the first of a group makes its hub");
        let rank = members.iter().position(|rank| *rank == self.rank);
        let rank = rank.expect("a rank is a member of its own group");
        Ok(Box::new(Self { hub: Arc::clone(hub), rank }))
    }
}

impl Transport for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.hub.members.len()
    }

    fn world_rank(&self) -> usize {
        self.hub.members[self.rank]
    }

    fn split(&self, _axis: &str, color: usize, key: usize) -> Result<Box<dyn Transport>, Fault> {
        let mine = [color as u64, key as u64];
        let members = self.exchange(bytemuck::cast_slice(&mine), |parts| {
            let place = |part: &&[u8]| bytemuck::pod_read_unaligned::<[u64; 2]>(part);
            let places = parts.iter().map(place).enumerate();
            let same = places.filter(|(_, place)| place[0] == mine[0]);
            let mut members: Vec<(u64, usize)> =
                same.map(|(rank, place)| (place[1], rank)).collect();
            members.sort_unstable();
            members.into_iter().map(|(_, rank)| rank).collect::<Vec<_>>()
        })?;
        self.group(&members)
    }

    fn duplicate(&self, _axis: &str) -> Result<Box<dyn Transport>, Fault> {
        self.group(&(0..self.size()).collect::<Vec<_>>())
    }

    fn barrier(&self) -> Result<(), Fault> {
        self.exchange(&[], |_| ())
    }

    fn broadcast(&self, root: usize, data: &mut [u8]) -> Result<(), Fault> {
        let bytes: &[u8] = if self.rank == root { data } else { &[] };
        let parcel = Parcel { parts: vec![bytes.into()], hub: None };
        self.exchange_parcels(parcel, 0, |parts| copy(root, parts[root], data))?
    }

    fn all_reduce(&self, op: ReduceOp, dtype: DType, data: &mut [u8]) -> Result<(), Fault> {
        let (size, width) = (self.size(), dtype.n_bytes());
        let len = data.len();
        let everything = Parcel { parts: vec![(&*data).into()], hub: None };
        if len < SHARED_REDUCTION_BYTES {
            return self.exchange_parcels(everything, 0, |parts| {
                equal(parts, len)?;
                reduce(op, dtype, parts, data);
                Ok(())
            })?;
        }
        // Each rank reduces a stripe, in the order of the ranks as above.
        let n = len / width;
        let stripe = |rank: usize| rank * n / size * width..(rank + 1) * n / size * width;
        let mine = stripe(self.rank);
        self.exchange_parcels(everything, 0, |parts| {
            equal(parts, len)?;
            let parts: Vec<&[u8]> = parts.iter().map(|part| &part[mine.clone()]).collect();
            reduce(op, dtype, &parts, &mut data[mine.clone()]);
            Ok(())
        })??;
        let reduced = Parcel { parts: vec![data[mine].into()], hub: None };
        self.exchange_parcels(reduced, 0, |parts| {
            for (rank, part) in parts.iter().enumerate() {
                copy(rank, part, &mut data[stripe(rank)])?;
            }
            Ok(())
        })?
    }

    fn reduce_scatter(
        &self,
        op: ReduceOp,
        dtype: DType,
        send: &[u8],
        recv: &mut [u8],
    ) -> Result<(), Fault> {
        let blocks = blocks(send, self.size());
        self.exchange_parts(blocks, |parts| {
            equal(parts, recv.len())?;
            reduce(op, dtype, parts, recv);
            Ok(())
        })?
    }

    fn all_gather(&self, send: &[u8], recv: &mut [u8]) -> Result<(), Fault> {
        self.exchange(send, |parts| lay(parts, recv))?
    }

    fn all_gather_v(&self, send: &[u8], recv: &mut dyn Receive) -> Result<(), Fault> {
        self.exchange(send, |parts| deliver(parts, recv))?
    }

    fn all_to_all(&self, send: &[u8], recv: &mut [u8]) -> Result<(), Fault> {
        self.exchange_parts(blocks(send, self.size()), |parts| lay(parts, recv))?
    }

    fn all_to_all_v(&self, send: &[&[u8]], recv: &mut dyn Receive) -> Result<(), Fault> {
        self.exchange_parts(send.iter().copied(), |parts| deliver(parts, recv))?
    }

    fn send(&self, to: usize, tag: u32, data: &[u8]) -> Result<(), Fault> {
        self.hub.post(self.rank, to, tag, data.into());
        Ok(())
    }

    fn recv(&self, from: usize, tag: u32, data: &mut [u8]) -> Result<(), Fault> {
        let message = self.hub.fetch(from, self.rank, tag)?;
        copy(from, &message, data)
    }

    fn fail(&self, rank: usize, message: &str) -> ! {
        match self.hub.world.fail(rank, message) {
            Ok(()) => panic!("{message}"),
            // Printed by the rank that was first: this one follows in silence.
            Err(first) => resume_unwind(Box::new(first.to_string())),
        }
    }

    fn unwinds(&self) {
        if !RUNS_A_BODY.get() {
            let message = "a thread of this rank panicked; its message is on standard error";
            let _ = self.hub.world.fail(self.world_rank(), message);
        }
    }
}

/// `bytes` in `n` equal blocks.
fn blocks(bytes: &[u8], n: usize) -> impl Iterator<Item = &[u8]> {
    let len = bytes.len() / n;
    (0..n).map(move |index| &bytes[index * len..(index + 1) * len])
}

/// All `parts` must have `expected` bytes.
fn equal(parts: &[&[u8]], expected: usize) -> Result<(), Fault> {
    match parts.iter().position(|part| part.len() != expected) {
        Some(from) => Err(Fault::Length { from, found: parts[from].len(), expected }),
        None => Ok(()),
    }
}

/// Lays the parts, one per rank, one after the other.
fn lay(parts: &[&[u8]], to: &mut [u8]) -> Result<(), Fault> {
    let len = to.len() / parts.len();
    for (rank, part) in parts.iter().enumerate() {
        copy(rank, part, &mut to[rank * len..(rank + 1) * len])?;
    }
    Ok(())
}

/// Copies what came from rank `from`.
fn copy(from: usize, bytes: &[u8], to: &mut [u8]) -> Result<(), Fault> {
    if bytes.len() != to.len() {
        return Err(Fault::Length { from, found: bytes.len(), expected: to.len() });
    }
    to.copy_from_slice(bytes);
    Ok(())
}
