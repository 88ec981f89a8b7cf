//! Saving from one process: what many ranks do, with one rank.

use std::path::{Path, PathBuf};

use crate::error::CheckpointError;
use crate::manifest::Meta;
use crate::rank_file::save_rank;
use crate::staging::Staging;
use crate::tensor::SaveTensor;

/// Saves `tensors` as the checkpoint of `step` under `root` (`RUN/checkpoints`, created if absent) and
/// returns its directory.
///
/// The iterator is drained first, the bytes of each tensor are then asked for one after the other.
/// Leftovers of killed runs are cleaned up. A step that is already saved is replaced (kept as it is if
/// nothing differs). The caller holds the [`crate::RunLock`]: one writer at a time. Where several ranks
/// hold the tensors, see [`Staging`].
///
/// # Errors
/// [`CheckpointError::Io`] where the disk is full, for one, [`CheckpointError::BadTensor`], and
/// [`CheckpointError::NotWhole`] for parts of tensors that make no whole. Earlier checkpoints and
/// `LATEST` are then as before.
pub fn save<'a>(
    root: &Path,
    step: u64,
    meta: &Meta,
    tensors: &mut dyn Iterator<Item = SaveTensor<'a>>,
) -> Result<PathBuf, CheckpointError> {
    let staging = Staging::begin(root, step)?;
    let file = save_rank(root, staging.name(), 0, tensors)?;
    staging.commit(meta, vec![file])
}
