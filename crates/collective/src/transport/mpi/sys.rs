//! The calls of MPI, with lengths and return codes checked.
//!
//! MPI's C interface is used as it is: the safe layer of the `mpi` crate ignores return codes and
//! lacks sends that own their buffer.

#![allow(unsafe_code, reason = "the C interface of MPI")]

use std::ffi::{c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;

use mpi::ffi;

use crate::element::{DType, ReduceOp};
use crate::transport::Fault;

/// The name of the engine in messages.
pub(super) const NAME: &str = "MPI";

/// The most elements or bytes that one call can count.
pub(super) const MAX_COUNT: usize = i32::MAX as usize;

/// A message beyond this travels in pieces.
const PIECE_BYTES: usize = 1 << 30;

/// A communicator of MPI. It is never freed: that is a collective operation, and handles are
/// dropped whenever their owners please.
#[derive(Clone, Copy)]
pub(super) struct Comm(ffi::MPI_Comm);

// SAFETY: A handle without data of ours behind it. MPI runs with MPI_THREAD_MULTIPLE, so any thread
// may use it; `Communicator` refuses two at a time, which would mix up collectives.
unsafe impl Send for Comm {}
// SAFETY: As above.
unsafe impl Sync for Comm {}

impl std::fmt::Debug for Comm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Comm")
    }
}

/// Something under way, with the bytes that MPI reads.
pub(super) struct Pending {
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

/// The world, with errors reported instead of ending the process.
pub(super) fn world() -> Result<Comm, Fault> {
    // SAFETY: MPI is started; the constants are those of the library.
    unsafe {
        let world = ffi::RSMPI_COMM_WORLD;
        check(ffi::MPI_Comm_set_errhandler(world, ffi::RSMPI_ERRORS_RETURN))?;
        Ok(Comm(world))
    }
}

/// Ends all processes of the world, this one included.
pub(super) fn abort(code: i32) {
    // SAFETY: Allowed whenever MPI is started and not finalized.
    unsafe {
        ffi::MPI_Abort(ffi::RSMPI_COMM_WORLD, code);
    }
}

impl Comm {
    pub(super) fn rank(self) -> Result<usize, Fault> {
        let mut rank = 0;
        // SAFETY: A live communicator and a place for one int.
        check(unsafe { ffi::MPI_Comm_rank(self.0, &mut rank) })?;
        Ok(usize::try_from(rank).unwrap_or(0))
    }

    pub(super) fn size(self) -> Result<usize, Fault> {
        let mut size = 0;
        // SAFETY: A live communicator and a place for one int.
        check(unsafe { ffi::MPI_Comm_size(self.0, &mut size) })?;
        Ok(usize::try_from(size).unwrap_or(0))
    }

    /// The largest tag of a message; 32,767 or more.
    pub(super) fn tag_limit(self) -> Result<u32, Fault> {
        let mut value: *mut c_int = ptr::null_mut();
        let mut is_set = 0;
        // SAFETY: The attribute MPI_TAG_UB is a pointer to an int that lives as long as MPI.
        unsafe {
            let key = ffi::MPI_TAG_UB as c_int;
            let place = ptr::from_mut(&mut value).cast::<c_void>();
            check(ffi::MPI_Comm_get_attr(self.0, key, place, &mut is_set))?;
            let limit = if is_set != 0 && !value.is_null() { *value } else { 32_767 };
            Ok(u32::try_from(limit).unwrap_or(32_767))
        }
    }

    pub(super) fn split(self, color: i32, key: i32) -> Result<Self, Fault> {
        // SAFETY: A live communicator and a place for the new one.
        made(|new| unsafe { ffi::MPI_Comm_split(self.0, color, key, new) })
    }

    pub(super) fn duplicate(self) -> Result<Self, Fault> {
        // SAFETY: A live communicator and a place for the new one.
        made(|new| unsafe { ffi::MPI_Comm_dup(self.0, new) })
    }

    pub(super) fn barrier(self) -> Result<(), Fault> {
        // SAFETY: A live communicator.
        check(unsafe { ffi::MPI_Barrier(self.0) })
    }

    pub(super) fn broadcast(self, root: usize, data: &mut [u8]) -> Result<(), Fault> {
        for piece in pieces_mut(data) {
            // SAFETY: The pointer and the count are those of a slice of bytes.
            check(unsafe {
                let (data, n) = (piece.as_mut_ptr().cast(), int(piece.len()));
                ffi::MPI_Bcast(data, n, ffi::RSMPI_UINT8_T, int(root), self.0)
            })?;
        }
        Ok(())
    }

    /// `recv` is as long as `send`, at most [`MAX_COUNT`] elements.
    pub(super) fn all_reduce(
        self,
        op: ReduceOp,
        dtype: DType,
        send: &[u8],
        recv: &mut [u8],
    ) -> Result<(), Fault> {
        assert_eq!(send.len(), recv.len(), "a reduction keeps its length");
        let n = int(send.len() / dtype.n_bytes());
        // SAFETY: Both slices hold `n` elements of the type and do not overlap.
        check(unsafe {
            let (send, recv) = (send.as_ptr().cast(), recv.as_mut_ptr().cast());
            ffi::MPI_Allreduce(send, recv, n, datatype(dtype), operation(op), self.0)
        })
    }

    /// `send` is one block per rank (`size`), each as long as `recv`.
    pub(super) fn reduce_scatter(
        self,
        size: usize,
        op: ReduceOp,
        dtype: DType,
        send: &[u8],
        recv: &mut [u8],
    ) -> Result<(), Fault> {
        assert_eq!(send.len(), size * recv.len(), "one block per rank");
        let n = int(recv.len() / dtype.n_bytes());
        // SAFETY: `recv` holds `n` elements of the type, `send` as many for each rank.
        check(unsafe {
            let (send, recv) = (send.as_ptr().cast(), recv.as_mut_ptr().cast());
            let datatype = datatype(dtype);
            ffi::MPI_Reduce_scatter_block(send, recv, n, datatype, operation(op), self.0)
        })
    }

    /// `recv` is one block per rank (`size`), each as long as `send`, at most [`MAX_COUNT`].
    pub(super) fn all_gather(self, size: usize, send: &[u8], recv: &mut [u8]) -> Result<(), Fault> {
        assert_eq!(recv.len(), size * send.len(), "one block per rank");
        let n = int(send.len());
        // SAFETY: `send` holds `n` bytes, `recv` as many for each rank.
        check(unsafe {
            let (send, recv) = (send.as_ptr().cast(), recv.as_mut_ptr().cast());
            let byte = ffi::RSMPI_UINT8_T;
            ffi::MPI_Allgather(send, n, byte, recv, n, byte, self.0)
        })
    }

    /// Both are one block per rank (`size`), of at most [`MAX_COUNT`] bytes.
    pub(super) fn all_to_all(self, size: usize, send: &[u8], recv: &mut [u8]) -> Result<(), Fault> {
        assert!(recv.len() == send.len() && send.len().is_multiple_of(size), "equal blocks");
        let n = int(send.len() / size);
        // SAFETY: Both slices hold `n` bytes for each rank.
        check(unsafe {
            let (send, recv) = (send.as_ptr().cast(), recv.as_mut_ptr().cast());
            let byte = ffi::RSMPI_UINT8_T;
            ffi::MPI_Alltoall(send, n, byte, recv, n, byte, self.0)
        })
    }

    /// Sends and receives at once, with rank and bytes of each message; both sides know the
    /// lengths. Any length; empty messages do not travel.
    pub(super) fn exchange(
        self,
        tag: i32,
        sends: &[(usize, &[u8])],
        recvs: &mut [(usize, &mut [u8])],
    ) -> Result<(), Fault> {
        let mut requests: Vec<ffi::MPI_Request> = Vec::new();
        let mut start = || {
            for (from, data) in recvs.iter_mut() {
                for piece in data.chunks_mut(PIECE_BYTES) {
                    let (data, n) = (piece.as_mut_ptr().cast(), int(piece.len()));
                    // SAFETY: The slice outlives the request, which is waited for below.
                    requests.push(request(|new| unsafe {
                        let byte = ffi::RSMPI_UINT8_T;
                        ffi::MPI_Irecv(data, n, byte, int(*from), tag, self.0, new)
                    })?);
                }
            }
            for (to, data) in sends {
                for piece in data.chunks(PIECE_BYTES) {
                    let (data, n) = (piece.as_ptr().cast(), int(piece.len()));
                    // SAFETY: As above.
                    requests.push(request(|new| unsafe {
                        ffi::MPI_Isend(data, n, ffi::RSMPI_UINT8_T, int(*to), tag, self.0, new)
                    })?);
                }
            }
            Ok(())
        };
        let started = start();
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
    pub(super) fn send(
        self,
        to: usize,
        tag: i32,
        data: &[u8],
        mut keep: impl FnMut(Pending),
    ) -> Result<(), Fault> {
        for piece in pieces(data) {
            let data: Box<[u8]> = piece.into();
            let (start, n) = (data.as_ptr().cast(), int(data.len()));
            // SAFETY: The box lives in `Pending` until the request is complete.
            let request = request(|new| unsafe {
                ffi::MPI_Isend(start, n, ffi::RSMPI_UINT8_T, int(to), tag, self.0, new)
            })?;
            let mut sending = Pending { request, data };
            if !sending.is_complete() {
                keep(sending);
            }
        }
        Ok(())
    }

    /// A barrier that is complete once all ranks have started it.
    pub(super) fn start_barrier(self) -> Result<Pending, Fault> {
        // SAFETY: A live communicator and a place for the request.
        let request = request(|new| unsafe { ffi::MPI_Ibarrier(self.0, new) })?;
        Ok(Pending { request, data: Box::default() })
    }

    /// The next message with this tag and its sender, if there is one.
    pub(super) fn poll(self, tag: i32) -> Result<Option<(usize, Vec<u8>)>, Fault> {
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
            let (data, byte) = (data.as_mut_ptr().cast(), ffi::RSMPI_UINT8_T);
            ffi::MPI_Mrecv(data, n, byte, message.as_mut_ptr(), ffi::RSMPI_STATUS_IGNORE)
        })?;
        Ok(Some((usize::try_from(from).unwrap_or(0), data)))
    }

    /// Waits for a message as long as `data`; returns the length of one that is not.
    pub(super) fn recv(
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
                let (data, n) = (piece.as_mut_ptr().cast(), int(piece.len()));
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
    pub(super) fn is_complete(&mut self) -> bool {
        let mut is_complete = 0;
        // SAFETY: A request that was started and is not complete, or null, which is complete.
        must_complete(check(unsafe {
            ffi::MPI_Test(&mut self.request, &mut is_complete, ffi::RSMPI_STATUS_IGNORE)
        }));
        is_complete != 0
    }

    /// Gives up on it: the buffer stays for MPI to read.
    pub(super) fn abandon(self) {
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

fn pieces_mut(mut data: &mut [u8]) -> impl Iterator<Item = &mut [u8]> {
    let n = data.len().div_ceil(PIECE_BYTES).max(1);
    (0..n).map(move |_| {
        let rest = std::mem::take(&mut data);
        let (piece, rest) = rest.split_at_mut(rest.len().min(PIECE_BYTES));
        data = rest;
        piece
    })
}

fn made(make: impl FnOnce(*mut ffi::MPI_Comm) -> c_int) -> Result<Comm, Fault> {
    let mut new = MaybeUninit::uninit();
    check(make(new.as_mut_ptr()))?;
    // SAFETY: Written by the call that succeeded.
    Ok(Comm(unsafe { new.assume_init() }))
}

fn request(start: impl FnOnce(*mut ffi::MPI_Request) -> c_int) -> Result<ffi::MPI_Request, Fault> {
    let mut new = MaybeUninit::uninit();
    check(start(new.as_mut_ptr()))?;
    // SAFETY: Written by the call that succeeded.
    Ok(unsafe { new.assume_init() })
}

/// Counts and ranks that were bounded by the caller.
fn int(n: usize) -> c_int {
    c_int::try_from(n).expect("counts are cut to what MPI can count")
}

fn datatype(dtype: DType) -> ffi::MPI_Datatype {
    // SAFETY: Constants of the library, set before the program starts.
    unsafe {
        match dtype {
            DType::U8 => ffi::RSMPI_UINT8_T,
            DType::I32 => ffi::RSMPI_INT32_T,
            DType::U32 => ffi::RSMPI_UINT32_T,
            DType::I64 => ffi::RSMPI_INT64_T,
            DType::U64 => ffi::RSMPI_UINT64_T,
            DType::F32 => ffi::RSMPI_FLOAT,
            DType::F64 => ffi::RSMPI_DOUBLE,
            DType::Bf16 => unreachable!("MPI has no bf16: it is reduced by the caller"),
        }
    }
}

fn operation(op: ReduceOp) -> ffi::MPI_Op {
    // SAFETY: As above.
    unsafe {
        match op {
            ReduceOp::Sum => ffi::RSMPI_SUM,
            ReduceOp::Max => ffi::RSMPI_MAX,
            ReduceOp::Min => ffi::RSMPI_MIN,
        }
    }
}

/// MPI_SUCCESS is 0 in every implementation.
fn check(code: c_int) -> Result<(), Fault> {
    if code == 0 {
        return Ok(());
    }
    // At least MPI_MAX_ERROR_STRING of every implementation (256, 512).
    let mut text = [0_u8; 2048];
    let mut len = 0;
    // SAFETY: A buffer longer than any error string and a place for its length.
    unsafe {
        ffi::MPI_Error_string(code, text.as_mut_ptr().cast::<c_char>(), &mut len);
    }
    let len = usize::try_from(len).unwrap_or(0).min(text.len());
    let text = String::from_utf8_lossy(&text[..len]).into_owned();
    Err(fault(text))
}

/// An error of the engine in its own words.
pub(super) fn fault(text: String) -> Fault {
    Fault::Engine { name: NAME, text }
}
