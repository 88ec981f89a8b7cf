//! NCCL: the collectives of a group run between CUDA devices.
//!
//! A group is made over another one, of threads or of MPI, which exchanges the unique id, carries
//! messages and barriers, and ends the ranks when one fails. Data lies in host memory on both sides
//! of a call and is copied to the device and back: what is gained is the link between the devices.
//!
//! Type-checked and, as no device was at hand, never run: `tests/it/nccl.rs` runs the conformance
//! suite on one rank where a device is found. The libraries are loaded when the first group is made.

#![allow(unsafe_code, reason = "handles of NCCL go from thread to thread")]

use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DeviceRepr, ValidAsZeroBits};
use cudarc::nccl::{Comm, Id, NcclType};

use super::{Fault, Receive, Transport, room};
use crate::call::Call;
use crate::communicator::Communicator;
use crate::element::{DType, ReduceOp};
use crate::error::CollectiveError;

const NAME: &str = "NCCL";

/// Bytes of NCCL's unique id.
const ID_BYTES: usize = 128;

/// Makes a group of the ranks of `over` whose data travels by NCCL, each rank on the CUDA device with
/// the index `device`, another one for each rank of a machine. Collective over `over`.
///
/// # Errors
/// [`CollectiveError::Start`] on all ranks, when one lacks the CUDA driver or NCCL; on this one, when
/// the device or the group cannot be had.
///
/// # Panics
/// As every operation of `over`.
pub fn group(over: &Communicator, device: usize) -> Result<Communicator, CollectiveError> {
    // SAFETY: Both look for a library and open it, which runs what NVIDIA has it do when loaded.
    let has_libraries =
        unsafe { cudarc::driver::sys::is_culib_present() && cudarc::nccl::sys::is_culib_present() };
    let mut all_have = [u8::from(has_libraries)];
    over.all_reduce(ReduceOp::Min, &mut all_have);
    if all_have == [0] {
        let help =
            "install the NVIDIA driver and libnccl.so on every machine, or use another transport";
        let text = if has_libraries { "another rank lacks" } else { "this rank lacks" };
        let text = format!("{text} libcuda or libnccl");
        return Err(CollectiveError::Start { engine: NAME, text, help });
    }
    let axis = over.axis();
    let control = over.duplicate(axis);
    let nccl = Nccl::new(control, device).map_err(|fault| CollectiveError::Start {
        engine: NAME,
        text: format!("{fault:?}"),
        help: "check with nvidia-smi that the device exists and is free",
    })?;
    Ok(Communicator::over(Box::new(nccl), axis))
}

struct Nccl {
    /// The same ranks on the engine below.
    control: Communicator,
    device: usize,
    stream: Arc<CudaStream>,
    comm: Mutex<Movable>,
}

struct Movable(Comm);

// SAFETY: A handle of NCCL may be used by any thread, one at a time: it lies behind a mutex.
unsafe impl Send for Movable {}

/// A bf16 as NCCL knows it.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
struct Bf16(u16);

impl NcclType for Bf16 {
    fn as_nccl_type() -> cudarc::nccl::sys::ncclDataType_t {
        cudarc::nccl::sys::ncclDataType_t::ncclBfloat16
    }
}

// SAFETY: Two bytes like those of u16, all of whose values are valid.
unsafe impl DeviceRepr for Bf16 {}
// SAFETY: As above.
unsafe impl ValidAsZeroBits for Bf16 {}

impl Debug for Nccl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nccl")
            .field("control", &self.control)
            .field("device", &self.device)
            .finish()
    }
}

impl Nccl {
    /// Collective over `control`.
    fn new(control: Communicator, device: usize) -> Result<Self, Fault> {
        let stream = CudaContext::new(device).map_err(fault)?.default_stream();
        let mut id = [0_u8; ID_BYTES];
        if control.rank() == 0 {
            let internal = Id::new().map_err(fault)?;
            id.copy_from_slice(bytemuck::cast_slice(internal.internal()));
        }
        control.broadcast(0, &mut id);
        let id = Id::uninit(bytemuck::cast(id));
        let comm = Comm::from_rank(Arc::clone(&stream), control.rank(), control.size(), id);
        let comm = Mutex::new(Movable(comm.map_err(fault)?));
        Ok(Self { control, device, stream, comm })
    }

    fn below(&self) -> &dyn Transport {
        self.control.transport()
    }

    fn comm(&self) -> MutexGuard<'_, Movable> {
        self.comm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn to_device<T: DeviceRepr>(&self, data: &[T]) -> Result<CudaSlice<T>, Fault> {
        self.stream.clone_htod(data).map_err(fault)
    }

    /// Copies to the host once everything before on the stream is done.
    fn to_host<T: DeviceRepr>(&self, from: &CudaSlice<T>, to: &mut [T]) -> Result<(), Fault> {
        self.stream.memcpy_dtoh(from, to).map_err(fault)?;
        self.stream.synchronize().map_err(fault)
    }

    fn all_reduce_as<T>(&self, op: ReduceOp, data: &mut [u8]) -> Result<(), Fault>
    where
        T: bytemuck::Pod + DeviceRepr + NcclType,
    {
        let data: &mut [T] = bytemuck::cast_slice_mut(data);
        let mut buffer = self.to_device(data)?;
        self.comm().0.all_reduce_in_place(&mut buffer, &operation(op)).map_err(fault)?;
        self.to_host(&buffer, data)
    }

    fn reduce_scatter_as<T>(&self, op: ReduceOp, send: &[u8], recv: &mut [u8]) -> Result<(), Fault>
    where
        T: bytemuck::Pod + DeviceRepr + NcclType + ValidAsZeroBits,
    {
        let (send, recv): (&[T], &mut [T]) =
            (bytemuck::cast_slice(send), bytemuck::cast_slice_mut(recv));
        let send = self.to_device(send)?;
        let mut buffer = self.stream.alloc_zeros::<T>(recv.len()).map_err(fault)?;
        self.comm().0.reduce_scatter(&send, &mut buffer, &operation(op)).map_err(fault)?;
        self.to_host(&buffer, recv)
    }

    /// Every rank gets `send[r]` of rank `r`; lengths are known on both sides, empty parts stay.
    fn exchange(&self, send: &[&[u8]], mut recv: Vec<&mut [u8]>) -> Result<(), Fault> {
        let to_device = |part: &&[u8]| (!part.is_empty()).then(|| self.to_device(part)).transpose();
        let sends: Vec<Option<CudaSlice<u8>>> =
            send.iter().map(to_device).collect::<Result<_, _>>()?;
        let space = |part: &&mut [u8]| {
            let space = (!part.is_empty()).then(|| self.stream.alloc_zeros::<u8>(part.len()));
            space.transpose().map_err(fault)
        };
        let mut recvs: Vec<Option<CudaSlice<u8>>> =
            recv.iter().map(space).collect::<Result<_, _>>()?;
        {
            let comm = self.comm();
            let mut group = comm.0.group();
            for (rank, part) in sends.iter().enumerate() {
                if let Some(part) = part {
                    group.send(part.as_view(), peer(rank)).map_err(fault)?;
                }
            }
            for (rank, part) in recvs.iter_mut().enumerate() {
                if let Some(part) = part {
                    group.recv(part.as_view_mut(), peer(rank)).map_err(fault)?;
                }
            }
        }
        for (from, to) in recvs.iter().zip(&mut recv) {
            if let Some(from) = from {
                self.to_host(from, to)?;
            }
        }
        Ok(())
    }

    fn derived(&self, below: Box<dyn Transport>, axis: &str) -> Result<Box<dyn Transport>, Fault> {
        Ok(Box::new(Self::new(Communicator::over(below, axis), self.device)?))
    }
}

/// Calls a method of `Nccl` for the type of a `DType`.
macro_rules! by_dtype {
    ($dtype:expr, $self:ident.$method:ident($($argument:expr),*)) => {
        match $dtype {
            DType::U8 => $self.$method::<u8>($($argument),*),
            DType::I32 => $self.$method::<i32>($($argument),*),
            DType::U32 => $self.$method::<u32>($($argument),*),
            DType::I64 => $self.$method::<i64>($($argument),*),
            DType::U64 => $self.$method::<u64>($($argument),*),
            DType::F32 => $self.$method::<f32>($($argument),*),
            DType::F64 => $self.$method::<f64>($($argument),*),
            DType::Bf16 => $self.$method::<Bf16>($($argument),*),
        }
    };
}

impl Transport for Nccl {
    fn rank(&self) -> usize {
        self.control.rank()
    }

    fn size(&self) -> usize {
        self.control.size()
    }

    fn world_rank(&self) -> usize {
        self.control.world_rank()
    }

    /// One rank goes by way of its device too, so that one device tests all of this.
    fn is_local(&self) -> bool {
        false
    }

    fn split(&self, axis: &str, color: usize, key: usize) -> Result<Box<dyn Transport>, Fault> {
        self.derived(self.below().split(axis, color, key)?, axis)
    }

    fn duplicate(&self, axis: &str) -> Result<Box<dyn Transport>, Fault> {
        self.derived(self.below().duplicate(axis)?, axis)
    }

    fn begins(&self, call: Call) {
        self.below().begins(call);
    }

    fn ends(&self) {
        self.below().ends();
    }

    fn barrier(&self) -> Result<(), Fault> {
        self.below().barrier()
    }

    fn broadcast(&self, root: usize, data: &mut [u8]) -> Result<(), Fault> {
        if data.is_empty() {
            return Ok(());
        }
        let mut buffer = self.to_device(data)?;
        self.comm().0.broadcast_in_place(&mut buffer, peer(root)).map_err(fault)?;
        self.to_host(&buffer, data)
    }

    fn all_reduce(&self, op: ReduceOp, dtype: DType, data: &mut [u8]) -> Result<(), Fault> {
        if data.is_empty() {
            return Ok(());
        }
        by_dtype!(dtype, self.all_reduce_as(op, data))
    }

    fn reduce_scatter(
        &self,
        op: ReduceOp,
        dtype: DType,
        send: &[u8],
        recv: &mut [u8],
    ) -> Result<(), Fault> {
        if recv.is_empty() {
            return Ok(());
        }
        by_dtype!(dtype, self.reduce_scatter_as(op, send, recv))
    }

    fn all_gather(&self, send: &[u8], recv: &mut [u8]) -> Result<(), Fault> {
        if send.is_empty() {
            return Ok(());
        }
        let send = self.to_device(send)?;
        let mut buffer = self.stream.alloc_zeros::<u8>(recv.len()).map_err(fault)?;
        self.comm().0.all_gather(&send, &mut buffer).map_err(fault)?;
        self.to_host(&buffer, recv)
    }

    fn all_gather_v(&self, send: &[u8], recv: &mut dyn Receive) -> Result<(), Fault> {
        let mut lengths = vec![0_u64; self.size()];
        let mine = [send.len() as u64];
        let bytes = bytemuck::cast_slice_mut(&mut lengths);
        self.below().all_gather(bytemuck::cast_slice(&mine), bytes)?;
        self.exchange(&vec![send; self.size()], room(recv, &to_usize(&lengths))?)
    }

    fn all_to_all(&self, send: &[u8], recv: &mut [u8]) -> Result<(), Fault> {
        let n = send.len() / self.size();
        if n == 0 {
            return Ok(());
        }
        self.exchange(&send.chunks(n).collect::<Vec<_>>(), recv.chunks_mut(n).collect())
    }

    fn all_to_all_v(&self, send: &[&[u8]], recv: &mut dyn Receive) -> Result<(), Fault> {
        let mine: Vec<u64> = send.iter().map(|part| part.len() as u64).collect();
        let mut lengths = vec![0_u64; self.size()];
        let bytes = bytemuck::cast_slice_mut(&mut lengths);
        self.below().all_to_all(bytemuck::cast_slice(&mine), bytes)?;
        self.exchange(send, room(recv, &to_usize(&lengths))?)
    }

    fn send(&self, to: usize, tag: u32, data: &[u8]) -> Result<(), Fault> {
        self.below().send(to, tag, data)
    }

    fn recv(&self, from: usize, tag: u32, data: &mut [u8]) -> Result<(), Fault> {
        self.below().recv(from, tag, data)
    }

    fn fail(&self, rank: usize, message: &str) -> ! {
        self.below().fail(rank, message)
    }

    fn unwinds(&self) {
        self.below().unwinds();
    }
}

fn operation(op: ReduceOp) -> cudarc::nccl::ReduceOp {
    match op {
        ReduceOp::Sum => cudarc::nccl::ReduceOp::Sum,
        ReduceOp::Max => cudarc::nccl::ReduceOp::Max,
        ReduceOp::Min => cudarc::nccl::ReduceOp::Min,
    }
}

fn peer(rank: usize) -> i32 {
    i32::try_from(rank).expect("a group has fewer than 2^31 ranks")
}

fn to_usize(lengths: &[u64]) -> Vec<usize> {
    lengths.iter().map(|n| usize::try_from(*n).expect("a rank holds it in memory")).collect()
}

fn fault(error: impl Debug) -> Fault {
    Fault::Engine { name: NAME, text: format!("{error:?}") }
}
