//! Messages: what is under way, and waiting for what comes.

use std::ffi::c_int;
use std::mem::MaybeUninit;

use mpi::ffi;

use super::{Comm, check, int, start, start_mut};
use crate::transport::Fault;

/// A message beyond this travels in pieces.
const PIECE_BYTES: usize = 1 << 30;

/// Something under way, with the bytes that MPI reads.
pub(in crate::transport::mpi) struct Pending {
    request: ffi::MPI_Request,
    /// Read by MPI until the request is complete; the heap block never moves.
    data: Box<[u8]>,
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pending({} bytes)", self.data.len())
    }
}

// SAFETY: A handle and its buffer; with MPI_THREAD_MULTIPLE any thread may complete a request.
unsafe impl Send for Pending {}

impl Comm {
    /// Sends and receives at once, with rank and bytes of each message; both sides know the
    /// lengths. Any length; empty messages do not travel.
    pub(in crate::transport::mpi) fn exchange(
        self,
        tag: i32,
        sends: &[(usize, &[u8])],
        recvs: &mut [(usize, &mut [u8])],
    ) -> Result<(), Fault> {
        let mut requests: Vec<ffi::MPI_Request> = Vec::new();
        let mut start_all = || {
            for (from, data) in recvs.iter_mut() {
                for piece in data.chunks_mut(PIECE_BYTES) {
                    let (data, n) = (start_mut(piece), int(piece.len()));
                    // SAFETY: The slice outlives the request, which is waited for below.
                    requests.push(request(|new| unsafe {
                        let byte = ffi::RSMPI_UINT8_T;
                        ffi::MPI_Irecv(data, n, byte, int(*from), tag, self.0, new)
                    })?);
                }
            }
            for (to, data) in sends {
                for piece in data.chunks(PIECE_BYTES) {
                    let (data, n) = (start(piece), int(piece.len()));
                    // SAFETY: As above.
                    requests.push(request(|new| unsafe {
                        ffi::MPI_Isend(data, n, ffi::RSMPI_UINT8_T, int(*to), tag, self.0, new)
                    })?);
                }
            }
            Ok(())
        };
        let started = start_all();
        // MPI reads and writes the slices until this returns, also when not all were started. An
        // error in it leaves requests open: the process must end, which `must_complete` sees to.
        let n = int(requests.len());
        // SAFETY: `n` requests that were started above.
        let waited = check(unsafe {
            ffi::MPI_Waitall(n, requests.as_mut_ptr(), ffi::RSMPI_STATUSES_IGNORE)
        });
        must_complete(waited);
        started
    }

    /// Starts sending `data` in pieces, and hands over those that are not complete yet.
    pub(in crate::transport::mpi) fn send(
        self,
        to: usize,
        tag: i32,
        data: &[u8],
        mut keep: impl FnMut(Pending),
    ) -> Result<(), Fault> {
        for piece in pieces(data) {
            let data: Box<[u8]> = piece.into();
            let (bytes, n) = (start(&data), int(data.len()));
            // SAFETY: The box lives in `Pending` until the request is complete.
            let request = request(|new| unsafe {
                ffi::MPI_Isend(bytes, n, ffi::RSMPI_UINT8_T, int(to), tag, self.0, new)
            })?;
            let mut sending = Pending { request, data };
            if !sending.is_complete() {
                keep(sending);
            }
        }
        Ok(())
    }

    /// A barrier that is complete once all ranks have started it.
    pub(in crate::transport::mpi) fn start_barrier(self) -> Result<Pending, Fault> {
        // SAFETY: A live communicator and a place for the request.
        let request = request(|new| unsafe { ffi::MPI_Ibarrier(self.0, new) })?;
        Ok(Pending { request, data: Box::default() })
    }

    /// The next message with this tag and its sender, if there is one.
    pub(in crate::transport::mpi) fn poll(
        self,
        tag: i32,
    ) -> Result<Option<(usize, Vec<u8>)>, Fault> {
        let mut message = MaybeUninit::uninit();
        let mut status = MaybeUninit::uninit();
        let mut is_there = 0;
        // SAFETY: Places for one int, one message and one status, as the call asks for.
        check(unsafe {
            let (message, status) = (message.as_mut_ptr(), status.as_mut_ptr());
            let any = ffi::RSMPI_ANY_SOURCE;
            ffi::MPI_Improbe(any, tag, self.0, &mut is_there, message, status)
        })?;
        if is_there == 0 {
            return Ok(None);
        }
        let mut n = 0;
        // SAFETY: The probe has found a message, so it has written its handle and status.
        let from = unsafe {
            check(ffi::MPI_Get_count(status.as_ptr(), ffi::RSMPI_UINT8_T, &mut n))?;
            status.assume_init().MPI_SOURCE
        };
        let mut data = vec![0; usize::try_from(n).unwrap_or(0)];
        // SAFETY: The message has `n` bytes, as many as the buffer.
        check(unsafe {
            let (data, byte) = (start_mut(&mut data), ffi::RSMPI_UINT8_T);
            ffi::MPI_Mrecv(data, n, byte, message.as_mut_ptr(), ffi::RSMPI_STATUS_IGNORE)
        })?;
        Ok(Some((usize::try_from(from).unwrap_or(0), data)))
    }

    /// Waits for a message as long as `data`; returns the length of one that is not.
    pub(in crate::transport::mpi) fn recv(
        self,
        from: usize,
        tag: i32,
        data: &mut [u8],
    ) -> Result<Option<usize>, Fault> {
        let mut n_before = 0;
        for piece in pieces_mut(data) {
            let mut message = MaybeUninit::uninit();
            let mut status = MaybeUninit::uninit();
            let mut found = 0;
            // SAFETY: Places for one message, one status and one int; both are written by a probe
            // that succeeds.
            unsafe {
                check(ffi::MPI_Mprobe(
                    int(from),
                    tag,
                    self.0,
                    message.as_mut_ptr(),
                    status.as_mut_ptr(),
                ))?;
                check(ffi::MPI_Get_count(status.as_ptr(), ffi::RSMPI_UINT8_T, &mut found))?;
            }
            let found = usize::try_from(found).unwrap_or(0);
            if found != piece.len() {
                return Ok(Some(n_before + found));
            }
            // SAFETY: The probed message has as many bytes as the slice.
            check(unsafe {
                let (data, n) = (start_mut(piece), int(piece.len()));
                let byte = ffi::RSMPI_UINT8_T;
                ffi::MPI_Mrecv(data, n, byte, message.as_mut_ptr(), ffi::RSMPI_STATUS_IGNORE)
            })?;
            n_before += found;
        }
        Ok(None)
    }
}

impl Pending {
    /// Whether it is done and the buffer may go. Also moves it on.
    pub(in crate::transport::mpi) fn is_complete(&mut self) -> bool {
        let mut is_complete = 0;
        // SAFETY: A request that was started and is not complete, or null, which is complete.
        must_complete(check(unsafe {
            ffi::MPI_Test(&mut self.request, &mut is_complete, ffi::RSMPI_STATUS_IGNORE)
        }));
        is_complete != 0
    }

    /// Gives up on it: the buffer stays for MPI to read.
    pub(in crate::transport::mpi) fn abandon(self) {
        Box::leak(self.data);
    }
}

/// A transfer whose buffer MPI may still use after an error: the process cannot go on.
fn must_complete(result: Result<(), Fault>) {
    if let Err(fault) = result {
        panic!("a transfer of MPI failed: {fault:?}");
    }
}

/// `data` in pieces of at most [`PIECE_BYTES`]; one empty piece where there is nothing.
fn pieces(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let n = data.len().div_ceil(PIECE_BYTES).max(1);
    (0..n).map(move |i| &data[i * PIECE_BYTES..data.len().min((i + 1) * PIECE_BYTES)])
}

pub(super) fn pieces_mut(mut data: &mut [u8]) -> impl Iterator<Item = &mut [u8]> {
    let n = data.len().div_ceil(PIECE_BYTES).max(1);
    (0..n).map(move |_| {
        let rest = std::mem::take(&mut data);
        let (piece, rest) = rest.split_at_mut(rest.len().min(PIECE_BYTES));
        data = rest;
        piece
    })
}

fn request(start: impl FnOnce(*mut ffi::MPI_Request) -> c_int) -> Result<ffi::MPI_Request, Fault> {
    let mut new = MaybeUninit::uninit();
    check(start(new.as_mut_ptr()))?;
    // SAFETY: Written by the call that succeeded.
    Ok(unsafe { new.assume_init() })
}
