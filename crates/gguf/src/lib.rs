//! GGUF, the file format of llama.cpp: one file with metadata, tokenizer and (quantised) tensors.
//!
//! ```text
//! file --Header::open--> metadata: key -> Value      (configuration, tokenizer, chat template)
//!                   \--> tensors: name -> TensorInfo (type, dims, where its bytes lie)
//! bytes of a tensor --Quant::decode--> Vec<f32>
//! ```
//!
//! A header is read as a stream and every length in it is held against the size of the file, so that a damaged or hostile
//! file ends in an error with its offset. Tensor data is not touched; who wants it maps the file and takes
//! [`TensorInfo::range`].
//!
//! # Reference
//! `docs/gguf.md` of the repository ggml-org/ggml (versions 2 and 3, little endian).

mod error;
mod header;
mod quant;
mod value;

pub use error::GgufError;
pub use header::{Header, TensorInfo};
pub use quant::Quant;
pub use value::{Array, Value};
