//! The collectives and messages of a [`Communicator`], on slices of elements.
//!
//! The arguments are checked here, so that an engine sees only what fits. A group of one rank
//! copies, and asks no engine.

use bytemuck::{cast_slice, cast_slice_mut};

use crate::call::{Call, Operation};
use crate::communicator::Communicator;
use crate::element::{Element, ReduceOp};
use crate::transport::Receive;

impl Communicator {
    /// Returns once all ranks have called it.
    pub fn barrier(&self) {
        self.call(Call::new(Operation::Barrier), 0, |transport| {
            if transport.is_local() { Ok(()) } else { transport.barrier() }
        });
    }

    /// All ranks get the `data` of rank `root`.
    ///
    /// # Panics
    /// As every operation; when `root` is no rank, or `data` is not equally long on all ranks.
    pub fn broadcast<T: Element>(&self, root: usize, data: &mut [T]) {
        let call = Call::new(Operation::Broadcast).of(T::DTYPE).len(data.len()).peer(root);
        self.require_rank(call, "root", root);
        let others = if self.rank() == root { self.size() - 1 } else { 0 };
        self.call(call, others * size_of_val(data), |transport| {
            if transport.is_local() {
                Ok(())
            } else {
                transport.broadcast(root, cast_slice_mut(data))
            }
        });
    }

    /// Reduces `data` over all ranks, element by element; all ranks get the result.
    ///
    /// Threads add in the order of the ranks and give all ranks the same bits. MPI adds as it likes.
    ///
    /// # Panics
    /// As every operation; when `data` is not equally long on all ranks.
    pub fn all_reduce<T: Element>(&self, op: ReduceOp, data: &mut [T]) {
        let call = Call::new(Operation::AllReduce).of(T::DTYPE).len(data.len()).by(op);
        let bytes = 2 * (self.size() - 1) * size_of_val(data) / self.size();
        self.call(call, bytes, |transport| {
            if transport.is_local() {
                Ok(())
            } else {
                transport.all_reduce(op, T::DTYPE, cast_slice_mut(data))
            }
        });
    }

    /// Reduces `send`, one block per rank, over all ranks; rank `r` gets block `r` in `recv`.
    ///
    /// # Panics
    /// As every operation; when `send` is not `size` times as long as `recv`.
    pub fn reduce_scatter<T: Element>(&self, op: ReduceOp, send: &[T], recv: &mut [T]) {
        let call = Call::new(Operation::ReduceScatter).of(T::DTYPE).len(recv.len()).by(op);
        self.require_len(call, "the length of send", send.len(), self.size() * recv.len());
        let bytes = (self.size() - 1) * size_of_val(recv);
        self.call(call, bytes, |transport| {
            if transport.is_local() {
                recv.copy_from_slice(send);
                return Ok(());
            }
            transport.reduce_scatter(op, T::DTYPE, cast_slice(send), cast_slice_mut(recv))
        });
    }

    /// All ranks get the `send` of all ranks, in rank order.
    ///
    /// # Panics
    /// As every operation; when `recv` is not `size` times as long as `send`.
    pub fn all_gather<T: Element>(&self, send: &[T], recv: &mut [T]) {
        let call = Call::new(Operation::AllGather).of(T::DTYPE).len(send.len());
        self.require_len(call, "the length of recv", recv.len(), self.size() * send.len());
        self.call(call, (self.size() - 1) * size_of_val(send), |transport| {
            if transport.is_local() {
                recv.copy_from_slice(send);
                return Ok(());
            }
            transport.all_gather(cast_slice(send), cast_slice_mut(recv))
        });
    }

    /// Returns the `send` of each rank; lengths may differ.
    pub fn all_gather_v<T: Element>(&self, send: &[T]) -> Vec<Vec<T>> {
        let call = Call::new(Operation::AllGatherV).of(T::DTYPE);
        self.call(call, (self.size() - 1) * size_of_val(send), |transport| {
            if transport.is_local() {
                return Ok(vec![send.to_vec()]);
            }
            let mut parts = Parts(Vec::new());
            transport.all_gather_v(cast_slice(send), &mut parts)?;
            Ok(parts.0)
        })
    }

    /// Rank `r` gets block `r` of `send`; block `r` of `recv` came from rank `r`.
    ///
    /// # Panics
    /// As every operation; when `send` and `recv` are not equally long, or not a multiple of the
    /// group's size.
    pub fn all_to_all<T: Element>(&self, send: &[T], recv: &mut [T]) {
        let call = Call::new(Operation::AllToAll).of(T::DTYPE).len(send.len());
        self.require_len(call, "the length of recv", recv.len(), send.len());
        let size = self.size();
        let divides = send.len().is_multiple_of(size);
        self.require(divides, call, "the length of send", send.len(), || {
            format!("a multiple of {size}")
        });
        self.call(call, (size - 1) * (size_of_val(send) / size), |transport| {
            if transport.is_local() {
                recv.copy_from_slice(send);
                return Ok(());
            }
            transport.all_to_all(cast_slice(send), cast_slice_mut(recv))
        });
    }

    /// Rank `r` gets `send[r]`; element `r` of the result came from rank `r`. Lengths are free.
    ///
    /// # Panics
    /// As every operation; when `send` has not one part per rank.
    pub fn all_to_all_v<T: Element>(&self, send: &[Vec<T>]) -> Vec<Vec<T>> {
        let call = Call::new(Operation::AllToAllV).of(T::DTYPE);
        self.require_len(call, "the number of parts", send.len(), self.size());
        let to_others = send.iter().enumerate().filter(|(rank, _)| *rank != self.rank());
        let bytes = to_others.map(|(_, part)| size_of_val(&**part)).sum();
        self.call(call, bytes, |transport| {
            if transport.is_local() {
                return Ok(send.to_vec());
            }
            let send: Vec<&[u8]> = send.iter().map(|part| cast_slice(part)).collect();
            let mut parts = Parts(Vec::new());
            transport.all_to_all_v(&send, &mut parts)?;
            Ok(parts.0)
        })
    }

    /// Sends a message. Returns at once: it never waits for the receiver.
    ///
    /// Messages of one sender with one tag arrive in the order they were sent.
    ///
    /// # Panics
    /// As every operation; when `to` is no rank. Over MPI also when `tag` is above the engine's
    /// limit, at least 32,766.
    pub fn send<T: Element>(&self, to: usize, tag: u32, data: &[T]) {
        let call = Call::new(Operation::Send).of(T::DTYPE).len(data.len()).peer(to);
        self.require_rank(call, "the receiver", to);
        let bytes = if to == self.rank() { 0 } else { size_of_val(data) };
        self.call(call, bytes, |transport| transport.send(to, tag, cast_slice(data)));
    }

    /// Waits for the next message of rank `from` with this tag.
    ///
    /// # Panics
    /// As every operation; when `from` is no rank, or the message is not as long as `data`.
    pub fn recv<T: Element>(&self, from: usize, tag: u32, data: &mut [T]) {
        let call = Call::new(Operation::Recv).of(T::DTYPE).len(data.len()).peer(from);
        self.require_rank(call, "the sender", from);
        self.call(call, 0, |transport| transport.recv(from, tag, cast_slice_mut(data)));
    }

    fn require_rank(&self, call: Call, what: &'static str, rank: usize) {
        let size = self.size();
        self.require(rank < size, call, what, rank, || format!("a rank below {size}"));
    }

    fn require_len(&self, call: Call, what: &'static str, found: usize, expected: usize) {
        self.require(found == expected, call, what, found, || expected.to_string());
    }
}

/// What each rank sent, allocated once its length is known.
#[derive(Debug)]
struct Parts<T>(Vec<Vec<T>>);

impl<T: Element> Receive for Parts<T> {
    fn allocate(&mut self, n_bytes: &[usize]) -> Result<Vec<&mut [u8]>, usize> {
        let is_whole = |n: &usize| n.is_multiple_of(size_of::<T>());
        if let Some(odd) = n_bytes.iter().position(|n| !is_whole(n)) {
            return Err(odd);
        }
        let vector = |n: &usize| vec![T::zeroed(); n / size_of::<T>()];
        self.0 = n_bytes.iter().map(vector).collect();
        Ok(self.0.iter_mut().map(|part| cast_slice_mut(part)).collect())
    }

    fn element_bytes(&self) -> usize {
        size_of::<T>()
    }
}
