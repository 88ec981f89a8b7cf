//! Models by name: what a LLaMA needs of a repository on the Hugging Face hub, or on any server that speaks its protocol.
//!
//! ```text
//! "owner/name@revision:file" --Repo::parse--> Hub::fetch --> a folder (config, tokenizer, safetensors) or one file (GGUF)
//! ```
//!
//! Files lie in the hub's own cache, `~/.cache/huggingface/hub` unless the caller says otherwise, shared with its other
//! programs. What is there is not asked for again, and serves where the network is gone; a download that was interrupted goes on where it ended.
//!
//! # Reference
//! <https://huggingface.co/docs/hub/api>, and the crate `hf-hub`, which does the transfers.

mod cached;
mod error;
mod fetch;
mod repo;

pub use error::HubError;
pub use fetch::{Event, Hub};
pub use repo::Repo;
