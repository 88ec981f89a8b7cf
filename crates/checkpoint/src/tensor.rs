//! Host tensors on their way into a checkpoint.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

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

/// One tensor to be saved. Its bytes are asked for only when they are written, one tensor at a time, so
/// saving a model needs no second copy of it.
pub struct SaveTensor<'a> {
    pub(crate) path: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Box<dyn FnOnce() -> Cow<'a, [u8]> + 'a>,
}

impl<'a> SaveTensor<'a> {
    /// A tensor whose little-endian bytes come from `bytes` when they are needed.
    pub fn lazy(
        path: impl Into<String>,
        dtype: Dtype,
        shape: &[usize],
        bytes: impl FnOnce() -> Cow<'a, [u8]> + 'a,
    ) -> Self {
        Self { path: path.into(), dtype, shape: shape.to_vec(), bytes: Box::new(bytes) }
    }

    /// A tensor of little-endian bytes in memory.
    pub fn bytes(path: impl Into<String>, dtype: Dtype, shape: &[usize], bytes: &'a [u8]) -> Self {
        Self::lazy(path, dtype, shape, move || Cow::Borrowed(bytes))
    }

    /// A tensor of f32 values.
    pub fn f32(path: impl Into<String>, shape: &[usize], values: Vec<f32>) -> Self {
        Self::lazy_f32(path, shape, move || values)
    }

    /// A tensor of f32 values that come from `values` when they are needed.
    pub fn lazy_f32(
        path: impl Into<String>,
        shape: &[usize],
        values: impl FnOnce() -> Vec<f32> + 'a,
    ) -> Self {
        Self::lazy(path, Dtype::F32, shape, move || {
            let values = values();
            let mut bytes = vec![0; values.len() * 4];
            // Chunks of fixed size, which the compiler turns into one plain copy.
            for (to, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(&values) {
                *to = value.to_le_bytes();
            }
            Cow::Owned(bytes)
        })
    }

    /// Its name in the checkpoint.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Debug for SaveTensor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SaveTensor({} {}{:?})", self.path, self.dtype, self.shape)
    }
}
