//! Checkpoints as directories: a versioned manifest, hashed safetensors files, atomic commit.
//!
//! ```text
//! RUN/checkpoints/
//!   LATEST                        name of the newest checkpoint, then the BLAKE3 of its manifest
//!   step-00000123/
//!     manifest.json               what is inside, where, and the BLAKE3 of every piece
//!     manifest.json.b3            the BLAKE3 of manifest.json, as `b3sum` writes it
//!     rank-00000.safetensors      the tensors, readable by any safetensors tool
//! ```
//!
//! [`save`] writes a hidden directory beside, syncs it, renames it and changes `LATEST` last, so a kill
//! at any instruction leaves the previous checkpoint or the new one, never half of one. [`open_latest`]
//! checks every byte against its hash before it hands out anything. No Burn here: tensors are bytes.
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

mod durable;
mod error;
mod load;
mod lock;
mod manifest;
mod root;
mod save;
mod tensor;

pub use error::CheckpointError;
pub use load::{Checkpoint, TensorView};
pub use lock::RunLock;
pub use manifest::{FORMAT_VERSION, FileEntry, Manifest, Meta, ShardEntry, TensorEntry};
pub use root::{Listed, latest, list, open_latest, prune, step_dir};
pub use save::save;
pub use tensor::{Dtype, SaveTensor};
