//! A group of MPI processes as a [`Transport`].

use std::sync::{Arc, Mutex, PoisonError};

use super::engine::Engine;
use super::ledger::Ledger;
use super::sys::{Comm, MAX_COUNT, fault};
use super::{end_all, end_this};
use crate::call::Call;
use crate::element::{DType, ReduceOp, reduce};
use crate::transport::{Fault, Receive, Transport, room};

/// Reductions travel in pieces of this size: measured on shared memory, 32 MiB in 1 MiB pieces take
/// a third of the time of one call.
const REDUCE_BYTES: usize = 1 << 20;

/// The tag of messages inside collectives; those of the user are shifted behind it.
const COLLECTIVE_TAG: i32 = 0;

#[derive(Debug)]
pub(super) struct MpiGroup {
    engine: Arc<Engine>,
    comm: Comm,
    rank: usize,
    size: usize,
    ledger: Arc<Ledger>,
    /// A piece of a reduction, as MPI must not read and write the same place.
    piece: Mutex<Vec<u8>>,
}

impl MpiGroup {
    /// Collective over `comm`; `id` is the same on all its ranks and that of no other group.
    pub(super) fn new(engine: Arc<Engine>, comm: Comm, id: u64, axis: &str) -> Result<Self, Fault> {
        let (rank, size) = (comm.rank()?, comm.size()?);
        let mut members = vec![0_u64; size];
        let mine = [engine.world_rank as u64];
        let bytes = bytemuck::cast_slice_mut(&mut members);
        comm.all_gather(size, bytemuck::cast_slice(&mine), bytes)?;
        let ledger = Arc::new(Ledger::new(id, axis, to_usize(&members)));
        engine.watch(&ledger);
        Ok(Self { engine, comm, rank, size, ledger, piece: Mutex::new(Vec::new()) })
    }

    /// The communicator while MPI runs.
    fn comm(&self) -> Result<Comm, Fault> {
        if self.engine.is_running() {
            return Ok(self.comm);
        }
        Err(fault("the world was dropped before this communicator".to_owned()))
    }

    fn derived(&self, comm: Comm, color: usize, axis: &str) -> Result<Box<dyn Transport>, Fault> {
        let id = self.ledger.derived_id(color);
        Ok(Box::new(Self::new(Arc::clone(&self.engine), comm, id, axis)?))
    }

    /// Every rank gets `send[r]` of rank `r`; lengths are known on both sides.
    fn exchange(&self, send: &[&[u8]], mut recv: Vec<&mut [u8]>) -> Result<(), Fault> {
        recv[self.rank].copy_from_slice(send[self.rank]);
        let others = |rank: &usize| *rank != self.rank;
        let sends = send.iter().copied().enumerate().filter(|(rank, _)| others(rank));
        let recvs = recv.into_iter().enumerate().filter(|(rank, _)| others(rank));
        let (sends, mut recvs): (Vec<_>, Vec<_>) = (sends.collect(), recvs.collect());
        self.comm()?.exchange(COLLECTIVE_TAG, &sends, &mut recvs)
    }

    /// A reduction that MPI lacks: the parts of all ranks meet and are added in rank order.
    fn reduce_parts(
        &self,
        op: ReduceOp,
        dtype: DType,
        send: &[&[u8]],
        recv: &mut [u8],
    ) -> Result<(), Fault> {
        let mut parts = vec![vec![0; recv.len()]; self.size];
        self.exchange(send, parts.iter_mut().map(Vec::as_mut_slice).collect())?;
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        reduce(op, dtype, &parts, recv);
        Ok(())
    }

    fn all_reduce_parts(&self, op: ReduceOp, dtype: DType, data: &mut [u8]) -> Result<(), Fault> {
        let (size, width) = (self.size, dtype.n_bytes());
        let n = data.len() / width;
        let stripe = |rank: usize| rank * n / size * width..(rank + 1) * n / size * width;
        let everything = data.to_vec();
        let stripes: Vec<&[u8]> = (0..size).map(|rank| &everything[stripe(rank)]).collect();
        self.reduce_parts(op, dtype, &stripes, &mut data[stripe(self.rank)])?;
        let mine = data[stripe(self.rank)].to_vec();
        let mut rest = data;
        let recv = (0..size).map(|rank| {
            let (head, tail) = std::mem::take(&mut rest).split_at_mut(stripe(rank).len());
            rest = tail;
            head
        });
        let recv = recv.collect();
        self.exchange(&vec![&mine[..]; size], recv)
    }

    fn tag(&self, tag: u32) -> Result<i32, Fault> {
        let limit = self.engine.tag_limit - 1;
        let shifted = i32::try_from(tag).ok().filter(|_| tag <= limit).map(|tag| tag + 1);
        shifted.ok_or(Fault::TooLarge {
            what: "the tag",
            found: tag as usize,
            limit: limit as usize,
        })
    }
}

impl Transport for MpiGroup {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn world_rank(&self) -> usize {
        self.engine.world_rank
    }

    fn split(&self, axis: &str, color: usize, key: usize) -> Result<Box<dyn Transport>, Fault> {
        let fit = |what, found| {
            i32::try_from(found).map_err(|_| Fault::TooLarge { what, found, limit: MAX_COUNT })
        };
        let (new_color, key) = (fit("the color", color)?, fit("the key", key)?);
        self.derived(self.comm()?.split(new_color, key)?, color, axis)
    }

    fn duplicate(&self, axis: &str) -> Result<Box<dyn Transport>, Fault> {
        self.derived(self.comm()?.duplicate()?, 0, axis)
    }

    fn begins(&self, call: Call) {
        self.ledger.begins(call);
    }

    fn ends(&self) {
        self.ledger.ends();
    }

    fn barrier(&self) -> Result<(), Fault> {
        self.comm()?.barrier()
    }

    fn broadcast(&self, root: usize, data: &mut [u8]) -> Result<(), Fault> {
        self.comm()?.broadcast(root, data)
    }

    fn all_reduce(&self, op: ReduceOp, dtype: DType, data: &mut [u8]) -> Result<(), Fault> {
        if dtype == DType::Bf16 {
            return self.all_reduce_parts(op, dtype, data);
        }
        let mut piece = self.piece.lock().unwrap_or_else(PoisonError::into_inner);
        for data in data.chunks_mut(REDUCE_BYTES) {
            piece.clear();
            piece.extend_from_slice(data);
            self.comm()?.all_reduce(op, dtype, &piece, data)?;
        }
        Ok(())
    }

    fn reduce_scatter(
        &self,
        op: ReduceOp,
        dtype: DType,
        send: &[u8],
        recv: &mut [u8],
    ) -> Result<(), Fault> {
        let (n, size) = (recv.len(), self.size);
        if dtype == DType::Bf16 {
            let blocks: Vec<&[u8]> =
                (0..size).map(|rank| &send[rank * n..(rank + 1) * n]).collect();
            return self.reduce_parts(op, dtype, &blocks, recv);
        }
        let mut piece = self.piece.lock().unwrap_or_else(PoisonError::into_inner);
        // A multiple of every element's width; all blocks together make one piece.
        let step = (REDUCE_BYTES / size / 8).max(1) * 8;
        for (index, recv) in recv.chunks_mut(step).enumerate() {
            piece.clear();
            for rank in 0..size {
                let start = rank * n + index * step;
                piece.extend_from_slice(&send[start..start + recv.len()]);
            }
            self.comm()?.reduce_scatter(size, op, dtype, &piece, recv)?;
        }
        Ok(())
    }

    fn all_gather(&self, send: &[u8], recv: &mut [u8]) -> Result<(), Fault> {
        if send.len() <= MAX_COUNT {
            return self.comm()?.all_gather(self.size, send, recv);
        }
        self.exchange(&vec![send; self.size], recv.chunks_mut(send.len()).collect())
    }

    fn all_gather_v(&self, send: &[u8], recv: &mut dyn Receive) -> Result<(), Fault> {
        let mut lengths = vec![0_u64; self.size];
        let mine = [send.len() as u64];
        let bytes = bytemuck::cast_slice_mut(&mut lengths);
        self.comm()?.all_gather(self.size, bytemuck::cast_slice(&mine), bytes)?;
        self.exchange(&vec![send; self.size], room(recv, &to_usize(&lengths))?)
    }

    fn all_to_all(&self, send: &[u8], recv: &mut [u8]) -> Result<(), Fault> {
        let n = send.len() / self.size;
        if n <= MAX_COUNT {
            return self.comm()?.all_to_all(self.size, send, recv);
        }
        self.exchange(&send.chunks(n).collect::<Vec<_>>(), recv.chunks_mut(n).collect())
    }

    fn all_to_all_v(&self, send: &[&[u8]], recv: &mut dyn Receive) -> Result<(), Fault> {
        let mine: Vec<u64> = send.iter().map(|part| part.len() as u64).collect();
        let mut lengths = vec![0_u64; self.size];
        let bytes = bytemuck::cast_slice_mut(&mut lengths);
        self.comm()?.all_to_all(self.size, bytemuck::cast_slice(&mine), bytes)?;
        self.exchange(send, room(recv, &to_usize(&lengths))?)
    }

    fn send(&self, to: usize, tag: u32, data: &[u8]) -> Result<(), Fault> {
        let tag = self.tag(tag)?;
        self.comm()?.send(to, tag, data, |sending| self.engine.keep(sending))
    }

    fn recv(&self, from: usize, tag: u32, data: &mut [u8]) -> Result<(), Fault> {
        let tag = self.tag(tag)?;
        match self.comm()?.recv(from, tag, data)? {
            None => Ok(()),
            Some(found) => Err(Fault::Length { from, found, expected: data.len() }),
        }
    }

    fn fail(&self, rank: usize, message: &str) -> ! {
        if rank != self.engine.world_rank {
            // The rank that is named says so itself, and ends this one.
            std::thread::sleep(super::GRACE);
        }
        end_all(self.engine.world_rank, message);
        end_this()
    }

    /// The panic hook has ended all ranks before a stack unwinds.
    fn unwinds(&self) {}
}

fn to_usize(lengths: &[u64]) -> Vec<usize> {
    lengths.iter().map(|n| usize::try_from(*n).expect("a rank holds it in memory")).collect()
}
