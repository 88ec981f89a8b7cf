//! Model directories in Hugging Face form, in and out. Hugging Face's names occur here and nowhere else.
//!
//! | file | holds |
//! |---|---|
//! | `config.json` | the configuration ([`config`]) |
//! | `model.safetensors` | all weights, or |
//! | `model-0000i-of-0000n.safetensors`, `model.safetensors.index.json` | shards of them and which tensor lies where |
//! | `generation_config.json` | ids of BOS and EOS, written for others |

mod config;
mod dtype;
mod names;
mod read;
mod write;

pub use config::SpecialIds;
pub use dtype::WeightDtype;
pub use read::{LoadReport, load_hf};
pub use write::{MAX_SHARD_BYTES, SaveReport, save_hf, save_hf_sharded};
