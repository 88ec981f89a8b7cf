//! LLaMA 1 to 3.2 on Burn: configuration, presets, segments, KV cache, Hugging Face weights in and out.
//!
//! ```text
//! tokens [b, s] --> Embed --> Block 0 --> ... --> Block n-1 --> Head --> logits [b, s, vocab_size]
//!                     |                                          ^
//!                     +----------- weight, when tied ------------+
//! ```
//!
//! [`Llama`] is a list of segments that an executor may run one by one, each on its own graph; by itself it runs a whole
//! forward and backward. [`Forward`] is what evaluation and generation see of a model.
//!
//! ```
//! use burn::tensor::{Int, Tensor};
//! use caravan_model::{Forward, Kernels, Llama, device, preset};
//!
//! # fn main() -> Result<(), caravan_model::ModelError> {
//! let device = device::parse("flex")?;
//! let model = Llama::init(&preset("tiny")?, 0, Kernels::Fused, &device)?;
//! let tokens = Tensor::<2, Int>::from_data([[1, 2, 3]], &device);
//! assert_eq!(model.logits(tokens, None).dims(), [1, 3, 512]);
//! # Ok(())
//! # }
//! ```

mod attend;
mod block;
mod branches;
mod cache;
mod config;
pub mod device;
mod embed;
mod error;
mod forward;
mod head;
pub mod init;
mod layers;
mod llama;
mod lora;
pub mod params;
mod philox;
mod presets;
mod region;
mod rope;
mod vocab;
mod weights;

// The configuration and the names of known ones.
pub use config::{LinearScaling, Llama3Scaling, LlamaConfig, ParamInfo, RopeScaling};
pub use presets::{PRESETS, preset};
// The model, whole and in segments.
pub use attend::{Attend, WholeSequences};
pub use block::Block;
pub use caravan_kernels::{AttentionPart, Kernels, SeenKeys};
pub use embed::Embed;
pub use head::Head;
pub use layers::{Linear, Lora, Norm};
pub use llama::Llama;
pub use lora::{LoraConfig, TARGETS};
pub use region::{Local, Region};
pub use rope::{RopeTables, frequencies};
pub use vocab::{Vocab, Whole};
// Reading it.
pub use branches::Branches;
pub use cache::{KvCache, LayerCache};
pub use forward::{Forward, Positions};
// Hugging Face directories and GGUF files.
pub use weights::{
    EndIds, LoadReport, MAX_SHARD_BYTES, SaveReport, SpecialIds, WeightDtype, chat_template,
    load_gguf, load_hf, save_hf, save_hf_sharded,
};

pub use error::ModelError;
