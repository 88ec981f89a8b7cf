//! Models in files: directories in Hugging Face form, in and out, and GGUF files, in. Their names of things occur here and
//! nowhere else.
//!
//! | file | holds |
//! |---|---|
//! | `config.json` | the configuration ([`config`]) |
//! | `model.safetensors` | all weights, or |
//! | `model-0000i-of-0000n.safetensors`, `model.safetensors.index.json` | shards of them and which tensor lies where |
//! | `generation_config.json` | ids of BOS and EOS, written for others; more ids that end a text |
//! | `tokenizer_config.json`, `chat_template.jinja` | the chat template |
//! | `*.gguf` | all of this in one file ([`gguf`]) |

mod config;
mod dtype;
mod gguf;
mod names;
mod read;
mod template;
mod write;

pub use config::SpecialIds;
pub use dtype::WeightDtype;
pub use gguf::load_gguf;
pub use read::{LoadReport, load_hf};
pub use template::{EndIds, chat_template};
pub use write::{MAX_SHARD_BYTES, SaveReport, save_hf, save_hf_sharded};
