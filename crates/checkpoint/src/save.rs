//! Saving: written beside, synced, renamed; `LATEST` changes last.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Metadata, TensorInfo};

use crate::durable::{create_dir, remove_dir, rename, sync_dir, write_file};
use crate::error::CheckpointError;
use crate::load::Checkpoint;
use crate::manifest::{
    FORMAT_VERSION, FileEntry, Manifest, Meta, ShardEntry, TensorEntry, file_name,
};
use crate::root::{self, MANIFEST, MANIFEST_HASH};
use crate::tensor::SaveTensor;

/// Bytes from which hashing on several threads pays.
const PARALLEL_HASH: usize = 1 << 20;

/// Saves `tensors` as the checkpoint of `step` under `root` (`RUN/checkpoints`, created if absent) and
/// returns its directory.
///
/// The iterator is drained first, the bytes of each tensor are then asked for one after the other.
/// Leftovers of killed runs are cleaned up. A step that is already saved is replaced (kept as it is if
/// nothing differs). The caller holds the [`crate::RunLock`]: one writer at a time.
///
/// # Errors
/// [`CheckpointError::Io`] where the disk is full, for one, and [`CheckpointError::BadTensor`]. Earlier
/// checkpoints and `LATEST` are then as before.
pub fn save<'a>(
    root: &Path,
    step: u64,
    meta: &Meta,
    tensors: &mut dyn Iterator<Item = SaveTensor<'a>>,
) -> Result<PathBuf, CheckpointError> {
    if !root.is_dir() {
        create_dir(root)?;
        root.parent().map_or(Ok(()), sync_dir)?;
    }
    root::clean(root)?;
    let temporary = root::temporary_dir(root, step);
    let written = write_checkpoint(&temporary, step, meta, tensors);
    let hash = match written {
        Ok(hash) => hash,
        Err(error) => {
            // What was written is of no use; a failure to remove it is left to the next clean-up, the
            // first error being the one to tell.
            let _ = remove_dir(&temporary);
            return Err(error);
        }
    };
    let dir = commit(root, step, &temporary, &hash)?;
    root::write_latest(root, step, &hash)?;
    Ok(dir)
}

/// Writes and syncs a whole checkpoint into the new directory `dir`; returns the hash of its manifest.
fn write_checkpoint<'a>(
    dir: &Path,
    step: u64,
    meta: &Meta,
    tensors: &mut dyn Iterator<Item = SaveTensor<'a>>,
) -> Result<String, CheckpointError> {
    std::fs::create_dir(dir).map_err(CheckpointError::io(dir, "create the directory"))?;
    let tensors: Vec<SaveTensor<'a>> = tensors.collect();
    let name = file_name(0);
    let (tensors, file) = write_tensors(&dir.join(&name), name, tensors)?;
    let manifest = Manifest {
        format_version: FORMAT_VERSION,
        step,
        config: meta.config.clone(),
        tokenizer_hash: meta.tokenizer_hash.clone(),
        data: meta.data.clone(),
        state: meta.state.clone(),
        tensors,
        files: vec![file],
    };
    let mut text = serde_json::to_vec_pretty(&manifest).expect("a manifest has only string keys");
    text.push(b'\n');
    let hash = blake3::hash(&text).to_hex().to_string();
    write_file(&dir.join(MANIFEST), &text)?;
    write_file(&dir.join(MANIFEST_HASH), root::hash_line(&hash).as_bytes())?;
    sync_dir(dir)?;
    Ok(hash)
}

/// Writes one safetensors file, tensor by tensor.
fn write_tensors(
    path: &Path,
    name: String,
    tensors: Vec<SaveTensor<'_>>,
) -> Result<(Vec<TensorEntry>, FileEntry), CheckpointError> {
    let header = header(&tensors)?;
    let mut file = File::create(path).map_err(CheckpointError::io(path, "create the file"))?;
    let write = |file: &mut File, bytes: &[u8]| {
        file.write_all(bytes).map_err(CheckpointError::io(path, "write the tensors"))
    };
    write(&mut file, &header)?;
    let mut size = header.len() as u64;
    let mut entries = Vec::with_capacity(tensors.len());
    // The widest elements first, as the safetensors format does it to keep all of them aligned; the
    // sort is stable, so the header lists the same order.
    for tensor in by_alignment(tensors) {
        let SaveTensor { path: tensor_path, dtype, shape, bytes } = tensor;
        let bytes = bytes();
        let n: usize = shape.iter().product();
        if bytes.len() != n * dtype.size() {
            let reason = format!(
                "shape {shape:?} of {dtype} needs {} bytes, {} were given",
                n * dtype.size(),
                bytes.len()
            );
            return Err(CheckpointError::BadTensor { path: tensor_path, reason });
        }
        write(&mut file, &bytes)?;
        size += bytes.len() as u64;
        let blake3 = hash(&bytes);
        let shard = ShardEntry { file: name.clone(), start: 0, end: n as u64, blake3 };
        entries.push(TensorEntry {
            path: tensor_path,
            dtype,
            shape: shape.iter().map(|&d| d as u64).collect(),
            shards: vec![shard],
        });
    }
    file.sync_all().map_err(CheckpointError::io(path, "sync the tensors to disk"))?;
    let header_bytes = header.len() as u64;
    Ok((entries, FileEntry { name, bytes: size, header_bytes, header_blake3: hash(&header) }))
}

/// The safetensors header with its length, for tensors in the order of [`by_alignment`].
fn header(tensors: &[SaveTensor<'_>]) -> Result<Vec<u8>, CheckpointError> {
    let bad = |path: &str, reason: &str| {
        Err(CheckpointError::BadTensor { path: path.to_owned(), reason: reason.to_owned() })
    };
    let mut order: Vec<&SaveTensor<'_>> = tensors.iter().collect();
    order.sort_by_key(|t| std::cmp::Reverse(t.dtype.size()));
    let mut seen = HashSet::new();
    let mut infos = Vec::with_capacity(tensors.len());
    let mut offset = 0usize;
    for tensor in order {
        if tensor.path.is_empty() || tensor.path == "__metadata__" || !seen.insert(&tensor.path) {
            return bad(&tensor.path, "its path is empty, reserved or taken by another tensor");
        }
        let end = tensor
            .shape
            .iter()
            .try_fold(tensor.dtype.size(), |n, &d| n.checked_mul(d))
            .and_then(|bytes| offset.checked_add(bytes));
        let Some(end) = end else { return bad(&tensor.path, "its size overflows") };
        infos.push((
            tensor.path.clone(),
            TensorInfo {
                dtype: tensor.dtype.to_safetensors(),
                shape: tensor.shape.clone(),
                data_offsets: (offset, end),
            },
        ));
        offset = end;
    }
    let metadata = Metadata::new(None, infos).expect("offsets were computed in order just above");
    let mut json = serde_json::to_vec(&metadata).expect("safetensors metadata is plain JSON");
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    Ok(header)
}

fn by_alignment(mut tensors: Vec<SaveTensor<'_>>) -> Vec<SaveTensor<'_>> {
    tensors.sort_by_key(|t| std::cmp::Reverse(t.dtype.size()));
    tensors
}

/// BLAKE3 in hexadecimal, on all threads where that pays; the result does not depend on it.
pub(crate) fn hash(bytes: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new();
    if bytes.len() >= PARALLEL_HASH {
        hasher.update_rayon(bytes);
    } else {
        hasher.update(bytes);
    }
    hasher.finalize().to_hex().to_string()
}

/// Gives the synced directory its final name. A kill between any two lines leaves a root that
/// [`root::list`] reads rightly and [`root::clean`] tidies.
fn commit(
    root: &Path,
    step: u64,
    temporary: &Path,
    hash: &str,
) -> Result<PathBuf, CheckpointError> {
    let dir = root::step_dir(root, step);
    if !dir.exists() {
        rename(temporary, &dir)?;
        sync_dir(root)?;
        return Ok(dir);
    }
    // Saved before, by a run that was killed ahead of `LATEST`: usually the very same bytes.
    if Checkpoint::open(&dir).is_ok_and(|old| old.manifest_hash() == hash) {
        remove_dir(temporary)?;
        return Ok(dir);
    }
    // If `LATEST` names this very step, it must hold for the old bytes and for the new ones meanwhile.
    root::announce_replacement(root, step, hash)?;
    let replaced = root::replaced_dir(root, step);
    rename(&dir, &replaced)?;
    rename(temporary, &dir)?;
    sync_dir(root)?;
    remove_dir(&replaced)?;
    Ok(dir)
}
