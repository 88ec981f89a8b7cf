//! Host tensors on their way into a checkpoint.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::shard::{Shard, n_elements};

/// Element types a checkpoint may hold, named as in safetensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it all")]
pub enum Dtype {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    U64,
    U32,
    U8,
}

impl Dtype {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::U8 => 1,
        }
    }

    pub(crate) fn to_safetensors(self) -> safetensors::Dtype {
        match self {
            Self::F64 => safetensors::Dtype::F64,
            Self::F32 => safetensors::Dtype::F32,
            Self::F16 => safetensors::Dtype::F16,
            Self::BF16 => safetensors::Dtype::BF16,
            Self::I64 => safetensors::Dtype::I64,
            Self::I32 => safetensors::Dtype::I32,
            Self::U64 => safetensors::Dtype::U64,
            Self::U32 => safetensors::Dtype::U32,
            Self::U8 => safetensors::Dtype::U8,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// One tensor to be saved, or the part of it that a rank holds. Its bytes are asked for only when they
/// are written, one tensor at a time, so saving a model needs no second copy of it.
pub struct SaveTensor<'a> {
    pub(crate) path: String,
    pub(crate) dtype: Dtype,
    part: Part,
    pub(crate) bytes: Box<dyn FnOnce() -> Cow<'a, [u8]> + 'a>,
}

enum Part {
    /// All of a tensor of this shape, which may be too large to count.
    Whole(Vec<usize>),
    Shard(Shard),
}

impl<'a> SaveTensor<'a> {
    /// A whole tensor whose little-endian bytes come from `bytes` when they are needed.
    pub fn lazy(
        path: impl Into<String>,
        dtype: Dtype,
        shape: &[usize],
        bytes: impl FnOnce() -> Cow<'a, [u8]> + 'a,
    ) -> Self {
        let part = Part::Whole(shape.to_vec());
        Self { path: path.into(), dtype, part, bytes: Box::new(bytes) }
    }

    /// A whole tensor of little-endian bytes in memory.
    pub fn bytes(path: impl Into<String>, dtype: Dtype, shape: &[usize], bytes: &'a [u8]) -> Self {
        Self::lazy(path, dtype, shape, move || Cow::Borrowed(bytes))
    }

    /// A whole tensor of f32 values.
    pub fn f32(path: impl Into<String>, shape: &[usize], values: Vec<f32>) -> Self {
        Self::lazy_f32(path, shape, move || values)
    }

    /// A whole tensor of f32 values that come from `values` when they are needed.
    pub fn lazy_f32(
        path: impl Into<String>,
        shape: &[usize],
        values: impl FnOnce() -> Vec<f32> + 'a,
    ) -> Self {
        Self::lazy(path, Dtype::F32, shape, move || Cow::Owned(little_endian(&values())))
    }

    /// A part of a tensor; `bytes` gives its elements in the shard's order.
    pub fn lazy_part(
        path: impl Into<String>,
        dtype: Dtype,
        shard: Shard,
        bytes: impl FnOnce() -> Cow<'a, [u8]> + 'a,
    ) -> Self {
        Self { path: path.into(), dtype, part: Part::Shard(shard), bytes: Box::new(bytes) }
    }

    /// A part of a tensor of f32 values, which `values` gives in the shard's order.
    pub fn lazy_f32_part(
        path: impl Into<String>,
        shard: Shard,
        values: impl FnOnce() -> Vec<f32> + 'a,
    ) -> Self {
        Self::lazy_part(path, Dtype::F32, shard, move || Cow::Owned(little_endian(&values())))
    }

    /// Its name in the checkpoint.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What there is to write. `None` if the whole tensor, in bytes, is more than a `usize` can count.
    pub(crate) fn shard(&self) -> Option<Shard> {
        let shape = match &self.part {
            Part::Whole(shape) => shape,
            Part::Shard(shard) => shard.shape(),
        };
        n_elements(shape)?.checked_mul(self.dtype.size())?;
        match &self.part {
            Part::Whole(shape) => Some(Shard::whole(shape)),
            Part::Shard(shard) => Some(shard.clone()),
        }
    }
}

fn little_endian(values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * 4];
    // Chunks of fixed size, which the compiler turns into one plain copy.
    for (to, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(values) {
        *to = value.to_le_bytes();
    }
    bytes
}

impl fmt::Debug for SaveTensor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.part {
            Part::Whole(shape) => write!(f, "SaveTensor({} {}{shape:?})", self.path, self.dtype),
            Part::Shard(shard) => write!(f, "SaveTensor({} {} {shard:?})", self.path, self.dtype),
        }
    }
}
