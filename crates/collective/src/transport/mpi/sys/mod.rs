//! The calls of MPI, with lengths and return codes checked.
//!
//! MPI's C interface is used as it is: the safe layer of the `mpi` crate ignores return codes and
//! lacks sends that own their buffer.

#![allow(unsafe_code, reason = "the C interface of MPI")]

use std::ffi::{c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::AtomicU8;

use mpi::ffi;

use crate::element::{DType, ReduceOp};
use crate::transport::Fault;
pub(super) use messages::Pending;

mod messages;

/// The name of the engine in messages.
pub(super) const NAME: &str = "MPI";

/// The most elements or bytes that one call can count.
pub(super) const MAX_COUNT: usize = i32::MAX as usize;

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
        for piece in messages::pieces_mut(data) {
            // SAFETY: The pointer and the count are those of a slice of bytes.
            check(unsafe {
                let (data, n) = (start_mut(piece), int(piece.len()));
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
            let (send, recv) = (start(send), start_mut(recv));
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
            let (send, recv) = (start(send), start_mut(recv));
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
            let (send, recv) = (start(send), start_mut(recv));
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
            let (send, recv) = (start(send), start_mut(recv));
            let byte = ffi::RSMPI_UINT8_T;
            ffi::MPI_Alltoall(send, n, byte, recv, n, byte, self.0)
        })
    }
}

fn made(make: impl FnOnce(*mut ffi::MPI_Comm) -> c_int) -> Result<Comm, Fault> {
    let mut new = MaybeUninit::uninit();
    check(make(new.as_mut_ptr()))?;
    // SAFETY: Written by the call that succeeded.
    Ok(Comm(unsafe { new.assume_init() }))
}

/// Where an empty slice lies. Rust puts it at the address 1, which Open MPI takes for MPI_IN_PLACE.
static NOTHING: AtomicU8 = AtomicU8::new(0);

fn start(data: &[u8]) -> *const c_void {
    if data.is_empty() { NOTHING.as_ptr().cast() } else { data.as_ptr().cast() }
}

fn start_mut(data: &mut [u8]) -> *mut c_void {
    if data.is_empty() { NOTHING.as_ptr().cast() } else { data.as_mut_ptr().cast() }
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
