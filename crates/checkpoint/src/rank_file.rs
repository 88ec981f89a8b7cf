//! What one rank writes: a safetensors file, and the report of what is in it.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use safetensors::tensor::{Metadata, TensorInfo};
use serde::{Deserialize, Serialize};

use crate::error::CheckpointError;
use crate::hash::hash;
use crate::manifest::{FileEntry, file_name, is_file_name};
use crate::root;
use crate::shard::Shard;
use crate::tensor::{Dtype, SaveTensor};

/// A rank's report on the file it wrote, to be sent to rank 0 for [`crate::Staging::commit`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RankFile {
    /// Name of the staging directory.
    pub(crate) staging: String,
    pub(crate) rank: usize,
    pub(crate) file: FileEntry,
    /// In the order of the file; those of tensors without elements are not in it.
    pub(crate) tensors: Vec<RankTensor>,
}

/// A part of a tensor in a rank's file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RankTensor {
    pub(crate) path: String,
    pub(crate) dtype: Dtype,
    /// Global shape.
    pub(crate) shape: Vec<usize>,
    pub(crate) start: Vec<usize>,
    pub(crate) extent: Vec<usize>,
    pub(crate) flat: [usize; 2],
    pub(crate) blake3: String,
}

impl RankFile {
    /// Who wrote it.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Size of the file, in bytes.
    pub fn bytes(&self) -> u64 {
        self.file.bytes
    }

    /// The report as bytes to send: JSON.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a report is plain JSON")
    }

    /// A report that was sent. What it says is checked when it is committed.
    ///
    /// # Errors
    /// [`CheckpointError::BadReport`] for anything but the bytes of a report.
    pub fn from_json(bytes: &[u8]) -> Result<Self, CheckpointError> {
        serde_json::from_slice(bytes)
            .map_err(|e| CheckpointError::BadReport { reason: format!("it cannot be read: {e}") })
    }
}

/// Writes and syncs what `rank` holds into the staging directory called `staging` under `root`, as
/// [`crate::Staging::name`] told it on rank 0.
///
/// Parts without elements, and ranks without parts, are welcome. Of a tensor that several ranks hold
/// copies of, only one of them may pass it here. The iterator is drained first, the bytes of each tensor
/// are then asked for one after the other.
///
/// # Errors
/// [`CheckpointError::Io`] where the disk is full, for one; [`CheckpointError::BadTensor`];
/// [`CheckpointError::NotShared`] where the directory is not to be seen;
/// [`CheckpointError::BadReport`] for a name that no staging directory has, or a rank beyond 99,999.
pub fn save_rank<'a>(
    root: &Path,
    staging: &str,
    rank: usize,
    tensors: &mut dyn Iterator<Item = SaveTensor<'a>>,
) -> Result<RankFile, CheckpointError> {
    let name = file_name(rank);
    if !root::is_staging(staging) || !is_file_name(&name) {
        let reason = format!("rank {rank} was to write `{name}` into `{staging}`");
        return Err(CheckpointError::BadReport { reason });
    }
    let dir = root.join(staging);
    if !dir.is_dir() {
        let problem = format!("`{}`, which rank 0 made, is not there", dir.display());
        return Err(CheckpointError::NotShared { rank, problem });
    }
    let parts = parts(tensors)?;
    let (file, tensors) = write_parts(&dir.join(&name), name, parts)?;
    Ok(RankFile { staging: staging.to_owned(), rank, file, tensors })
}

/// Tensors with what is to be written of each, in the order of the file.
fn parts<'a>(
    tensors: &mut dyn Iterator<Item = SaveTensor<'a>>,
) -> Result<Vec<(SaveTensor<'a>, Shard)>, CheckpointError> {
    let mut seen = HashSet::new();
    let mut parts = Vec::new();
    let mut total = 0usize;
    for tensor in tensors {
        let bad = |reason: &str| {
            Err(CheckpointError::BadTensor { path: tensor.path.clone(), reason: reason.to_owned() })
        };
        let reserved = tensor.path.is_empty() || tensor.path == "__metadata__";
        if reserved || !seen.insert(tensor.path.clone()) {
            return bad("its path is empty, reserved or taken by another tensor");
        }
        let Some(shard) = tensor.shard() else { return bad("its size overflows") };
        // No overflow in the product: the whole tensor's was tried.
        match total.checked_add(shard.len() * tensor.dtype.size()) {
            Some(sum) => total = sum,
            None => return bad("its size overflows"),
        }
        parts.push((tensor, shard));
    }
    // The widest elements first, as the safetensors format does it to keep all of them aligned.
    parts.sort_by_key(|(tensor, _)| std::cmp::Reverse(tensor.dtype.size()));
    Ok(parts)
}

/// Writes one safetensors file, tensor by tensor.
fn write_parts(
    path: &Path,
    name: String,
    parts: Vec<(SaveTensor<'_>, Shard)>,
) -> Result<(FileEntry, Vec<RankTensor>), CheckpointError> {
    let header = header(&parts);
    // Two ranks of one number would be one file.
    let mut file = File::create_new(path).map_err(CheckpointError::io(path, "create the file"))?;
    let write = |file: &mut File, bytes: &[u8]| {
        file.write_all(bytes).map_err(CheckpointError::io(path, "write the tensors"))
    };
    write(&mut file, &header)?;
    let mut size = header.len() as u64;
    let mut tensors = Vec::with_capacity(parts.len());
    for (tensor, shard) in parts {
        let SaveTensor { path, dtype, bytes, .. } = tensor;
        let bytes = bytes();
        let expected = shard.len() * dtype.size();
        if bytes.len() != expected {
            let reason = format!(
                "{} of {dtype} needs {expected} bytes, {} were given",
                describe(&shard),
                bytes.len()
            );
            return Err(CheckpointError::BadTensor { path, reason });
        }
        write(&mut file, &bytes)?;
        size += bytes.len() as u64;
        // Another rank tells about it, unless no rank has any element.
        if shard.is_empty() && shard.shape().iter().all(|&n| n > 0) {
            continue;
        }
        tensors.push(RankTensor {
            path,
            dtype,
            shape: shard.shape().to_vec(),
            start: shard.start().to_vec(),
            extent: shard.extent().to_vec(),
            flat: [shard.flat().start, shard.flat().end],
            blake3: hash(&bytes),
        });
    }
    file.sync_all().map_err(CheckpointError::io(path, "sync the tensors to disk"))?;
    let header_bytes = header.len() as u64;
    Ok((FileEntry { name, bytes: size, header_bytes, header_blake3: hash(&header) }, tensors))
}

/// The safetensors header with its length, for parts in the order of the file. Those without elements
/// are not in it.
fn header(parts: &[(SaveTensor<'_>, Shard)]) -> Vec<u8> {
    let mut infos = Vec::with_capacity(parts.len());
    let mut offset = 0;
    for (tensor, shard) in parts.iter().filter(|(_, shard)| !shard.is_empty()) {
        let end = offset + shard.len() * tensor.dtype.size();
        let info = TensorInfo {
            dtype: tensor.dtype.to_safetensors(),
            shape: shape_in_file(shard),
            data_offsets: (offset, end),
        };
        infos.push((tensor.path.clone(), info));
        offset = end;
    }
    let metadata = Metadata::new(None, infos).expect("offsets were computed in order just above");
    let mut json = serde_json::to_vec(&metadata).expect("safetensors metadata is plain JSON");
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    header
}

/// A box keeps its shape in the file, a range of one is flat.
pub(crate) fn shape_in_file(shard: &Shard) -> Vec<usize> {
    if shard.is_box() { shard.extent().to_vec() } else { vec![shard.len()] }
}

/// For messages.
fn describe(shard: &Shard) -> String {
    if shard.is_box() {
        format!("shape {:?}", shard.extent())
    } else {
        format!("elements {:?} of shape {:?}", shard.flat(), shard.extent())
    }
}
