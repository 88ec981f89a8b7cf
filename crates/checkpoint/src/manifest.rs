//! The manifest, format version 1, and the checks that make it safe to believe.
//!
//! A manifest may come from anywhere. Everything the reader later computes with (sizes, offsets, file
//! names) is checked here once, with checked arithmetic, against itself; `load.rs` then holds the files
//! against it.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::CheckpointError;
use crate::tensor::Dtype;

/// The format that [`crate::save`] writes and the newest that is read.
pub const FORMAT_VERSION: u64 = 1;

/// What a checkpoint knows beside its tensors. The crate stores these values and does not read them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Meta {
    /// The run's configuration.
    pub config: Value,
    /// Hash of the tokenizer file, 64 hexadecimal digits.
    pub tokenizer_hash: String,
    /// Position in the data.
    pub data: Value,
    /// Anything else the run needs to go on: step counts of the optimizer, sums of metrics.
    pub state: Value,
}

/// What `manifest.json` holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT_VERSION`] of the writer.
    pub format_version: u64,
    /// Updates made.
    pub step: u64,
    /// As in [`Meta`].
    pub config: Value,
    /// As in [`Meta`].
    pub tokenizer_hash: String,
    /// As in [`Meta`].
    pub data: Value,
    /// As in [`Meta`].
    pub state: Value,
    /// All tensors, in the order they were saved.
    pub tensors: Vec<TensorEntry>,
    /// All files with tensors.
    pub files: Vec<FileEntry>,
}

/// One tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorEntry {
    /// Its name, usually a module path.
    pub path: String,
    /// Element type.
    pub dtype: Dtype,
    /// Global shape.
    pub shape: Vec<u64>,
    /// Its pieces by ascending range; together they are the whole flat tensor.
    pub shards: Vec<ShardEntry>,
}

/// A range of a tensor's flat index that lies in one file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardEntry {
    /// Name of the file, where the tensor's path is the key.
    pub file: String,
    /// First element.
    pub start: u64,
    /// One past the last element.
    pub end: u64,
    /// BLAKE3 of the bytes, hexadecimal.
    pub blake3: String,
}

/// One safetensors file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// `rank-00000.safetensors`, with the writer's rank.
    pub name: String,
    /// Size of the file.
    pub bytes: u64,
    /// Size of everything before the first tensor.
    pub header_bytes: u64,
    /// BLAKE3 of those bytes, hexadecimal.
    pub header_blake3: String,
}

impl TensorEntry {
    /// Elements of the whole tensor, `None` where a `u64` cannot hold it or its bytes.
    pub fn n_elements(&self) -> Option<u64> {
        let n = self.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d))?;
        n.checked_mul(self.dtype.size() as u64).map(|_| n)
    }
}

impl Manifest {
    /// Reads and checks the text of a manifest; `path` is for messages.
    pub(crate) fn parse(text: &[u8], path: &Path) -> Result<Self, CheckpointError> {
        let bad = |reason: String| CheckpointError::BadManifest { path: path.to_owned(), reason };
        // The version first: a newer manifest may look different in everything else.
        #[derive(Deserialize)]
        struct Version {
            format_version: u64,
        }
        let version: Version = serde_json::from_slice(text)
            .map_err(|e| bad(format!("its format_version cannot be read: {e}")))?;
        if version.format_version > FORMAT_VERSION {
            return Err(CheckpointError::NewerFormat {
                path: path.to_owned(),
                found: version.format_version,
                supported: FORMAT_VERSION,
            });
        }
        if version.format_version == 0 {
            return Err(bad("format version 0 does not exist".to_owned()));
        }
        let manifest: Self = serde_json::from_slice(text).map_err(|e| bad(e.to_string()))?;
        manifest.check().map_err(bad)?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        let mut files = HashMap::new();
        for file in &self.files {
            if !is_file_name(&file.name) {
                return Err(format!("`{}` is no name of a checkpoint file", file.name));
            }
            if !is_hash(&file.header_blake3) {
                return Err(format!("header_blake3 of `{}` is no BLAKE3 hash", file.name));
            }
            if file.header_bytes > file.bytes {
                return Err(format!("`{}` is shorter than its header", file.name));
            }
            if files.insert(file.name.as_str(), file.bytes - file.header_bytes).is_some() {
                return Err(format!("file `{}` is listed twice", file.name));
            }
        }
        let mut paths = HashSet::new();
        // The bytes each file still has for tensors that are not yet seen.
        for tensor in &self.tensors {
            if tensor.path.is_empty() || !paths.insert(tensor.path.as_str()) {
                return Err(format!("tensor `{}` is listed twice or unnamed", tensor.path));
            }
            check_shards(tensor, &mut files)?;
        }
        match files.iter().find(|(_, left)| **left != 0) {
            Some((name, left)) => Err(format!("{left} bytes of `{name}` belong to no tensor")),
            None => Ok(()),
        }
    }
}

/// The shards tile the tensor without gap or overlap, and the files have room for them.
fn check_shards(tensor: &TensorEntry, room: &mut HashMap<&str, u64>) -> Result<(), String> {
    let path = &tensor.path;
    let n = tensor.n_elements().ok_or_else(|| format!("tensor `{path}` is impossibly large"))?;
    let mut next = 0;
    let mut used = HashSet::new();
    for shard in &tensor.shards {
        if shard.start != next || shard.end < shard.start || shard.end > n {
            return Err(format!(
                "tensor `{path}` of {n} elements has a shard {}..{} where {next} must follow",
                shard.start, shard.end
            ));
        }
        next = shard.end;
        if !is_hash(&shard.blake3) {
            return Err(format!("blake3 of `{path}` is no BLAKE3 hash"));
        }
        // One key per tensor and file, so a second shard in a file would be the same bytes.
        if !used.insert(shard.file.as_str()) {
            return Err(format!("tensor `{path}` has two shards in `{}`", shard.file));
        }
        let left = room.get_mut(shard.file.as_str()).ok_or_else(|| {
            format!("tensor `{path}` lies in `{}`, which is not listed", shard.file)
        })?;
        // No overflow: the elements of the whole tensor were multiplied by the size before.
        *left = left
            .checked_sub((shard.end - shard.start) * tensor.dtype.size() as u64)
            .ok_or_else(|| format!("tensor `{path}` does not fit into `{}`", shard.file))?;
    }
    if next != n || tensor.shards.is_empty() {
        return Err(format!("tensor `{path}` of {n} elements has shards for {next}"));
    }
    Ok(())
}

/// The file of a writer.
pub(crate) fn file_name(rank: usize) -> String {
    format!("rank-{rank:05}.safetensors")
}

/// Exactly what [`file_name`] makes: no separators, no dots, nowhere else to go.
fn is_file_name(name: &str) -> bool {
    name.strip_prefix("rank-")
        .and_then(|rest| rest.strip_suffix(".safetensors"))
        .is_some_and(|rank| rank.len() == 5 && rank.bytes().all(|b| b.is_ascii_digit()))
}

pub(crate) fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests;
