//! Checkpoints as directories: a versioned manifest, hashed safetensors files, atomic commit; saved by
//! any number of ranks and read back by any other.
//!
//! ```text
//! RUN/checkpoints/
//!   LATEST                        name of the newest checkpoint, then the BLAKE3 of its manifest
//!   step-00000123/
//!     manifest.json               what is inside, where, and the BLAKE3 of every piece
//!     manifest.json.b3            the BLAKE3 of manifest.json, as `b3sum` writes it
//!     rank-00000.safetensors      what rank 0 held, readable by any safetensors tool
//!     rank-00001.safetensors      what rank 1 held, and so on
//! ```
//!
//! Everything is written into a hidden directory beside, synced and renamed, and `LATEST` changes last,
//! so a kill at any instruction leaves the previous checkpoint or the new one, never half of one. No byte
//! is handed out before its hash was checked. No Burn here, and no ranks either: tensors are bytes, and
//! what ranks must tell each other are bytes that the caller carries.
//!
//! One process uses [`save`] and [`open_latest`]:
//!
//! ```
//! use caravan_checkpoint::{Meta, SaveTensor, open_latest, save};
//!
//! let root = tempfile::tempdir()?;
//! let weights = SaveTensor::f32("model/head.norm.weight", &[2], vec![1.0, 0.5]);
//! save(root.path(), 7, &Meta::default(), &mut std::iter::once(weights))?;
//!
//! let checkpoint = open_latest(root.path())?.expect("just saved");
//! assert_eq!(checkpoint.step(), 7);
//! assert_eq!(checkpoint.f32_values("model/head.norm.weight")?, [1.0, 0.5]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Many ranks hold a [`Shard`] of each tensor. They save together through a [`Staging`] directory, each
//! a file of its own by [`save_rank`]; each reads what it needs with [`Checkpoint::read`], whatever the
//! layout was that saved:
//!
//! ```
//! use caravan_checkpoint::{Meta, SaveTensor, Shard, Staging, open_latest_lazy, save_rank};
//!
//! let root = tempfile::tempdir()?;
//! let whole = Shard::whole(&[2, 4]); // 0 1 2 3 / 4 5 6 7
//! let staging = Staging::begin(root.path(), 7)?; // rank 0; the others are told its name
//! let mut reports = Vec::new();
//! for (rank, values) in [[0.0, 1.0, 4.0, 5.0], [2.0, 3.0, 6.0, 7.0]].into_iter().enumerate() {
//!     // Tensor parallel: each rank has half of the columns.
//!     let columns = whole.clone().slice(1, 2 * rank..2 * rank + 2);
//!     let part = SaveTensor::lazy_f32_part("w", columns, move || values.to_vec());
//!     reports.push(save_rank(root.path(), staging.name(), rank, &mut std::iter::once(part))?);
//! }
//! staging.commit(&Meta::default(), reports)?; // rank 0
//!
//! // ZeRO on three ranks: this one has elements 3..6.
//! let checkpoint = open_latest_lazy(root.path())?.expect("just saved");
//! assert_eq!(checkpoint.read("w", &whole.elements(3..6))?, [3.0, 4.0, 5.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod durable; // what is synced, and in which order
mod error;
mod files; // the files of a checkpoint: mapped, checked
mod hash;
mod load; // opening
mod lock; // one run per directory
mod manifest; // format version 2
mod rank_file; // what one rank writes and reports
mod read; // any part of a tensor
mod root; // LATEST, listing, pruning, leftovers
mod save; // from one process
mod shard; // which part of a tensor
mod staging; // many ranks, one checkpoint
mod tensor; // what is to be saved
mod tiling; // every element in exactly one shard
mod v1; // manifests of format version 1

pub use error::CheckpointError;
pub use load::{Checkpoint, TensorView};
pub use lock::RunLock;
pub use manifest::{FORMAT_VERSION, FileEntry, Manifest, Meta, ShardEntry, TensorEntry};
pub use rank_file::{RankFile, save_rank};
pub use root::{Listed, latest, list, open_latest, open_latest_lazy, prune, step_dir};
pub use save::save;
pub use shard::{Run, Shard};
pub use staging::Staging;
pub use tensor::{Dtype, SaveTensor};
