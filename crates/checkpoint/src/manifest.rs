//! The manifest, format version 2, and the checks that make it safe to believe.
//!
//! A manifest may come from anywhere. Everything the reader later computes with (sizes, offsets, file
//! names) is checked here once, with checked arithmetic, against itself; `files.rs` then holds the
//! files against it.
//!
//! | version | difference |
//! |---|---|
//! | 1 | a shard is a range of the tensor's row-major order: `start` and `end` are numbers |
//! | 2 | a shard is a range (`flat`) of a box (`start`, `extent`) of the tensor |

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{CheckpointError, without_help};
use crate::hash::is_hash;
use crate::shard::{Shard, n_elements};
use crate::tensor::Dtype;
use crate::{tiling, v1};

/// The format that is written, and the newest that is read.
pub const FORMAT_VERSION: u64 = 2;

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
    /// All tensors, by the rank that has them first and in the order it saved them.
    pub tensors: Vec<TensorEntry>,
    /// All files with tensors, by rank.
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
    pub shape: Vec<usize>,
    /// Its parts, by rank; together they are every element once. None in a tensor without elements.
    pub shards: Vec<ShardEntry>,
}

/// A part of a tensor that lies in one file: see [`Shard`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardEntry {
    /// Name of the file, where the tensor's path is the key.
    pub file: String,
    /// First index of the box in each dim.
    pub start: Vec<usize>,
    /// Shape of the box.
    pub extent: Vec<usize>,
    /// First and one past the last of the box's elements.
    pub flat: [usize; 2],
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
    /// Elements of the whole tensor, `None` where a `usize` cannot hold it or its bytes.
    pub fn n_elements(&self) -> Option<usize> {
        let n = n_elements(&self.shape)?;
        n.checked_mul(self.dtype.size()).map(|_| n)
    }

    /// The part of this tensor that `entry` is.
    ///
    /// # Errors
    /// [`CheckpointError::BadShard`] if it lies outside; never so in a manifest that was opened.
    pub fn shard(&self, entry: &ShardEntry) -> Result<Shard, CheckpointError> {
        let [from, to] = entry.flat;
        Shard::new(&self.shape, &entry.start, &entry.extent, from..to)
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
        let parsed = match version.format_version {
            0 => return Err(bad("format version 0 does not exist".to_owned())),
            1 => v1::parse(text),
            FORMAT_VERSION => serde_json::from_slice(text),
            found => {
                return Err(CheckpointError::NewerFormat {
                    path: path.to_owned(),
                    found,
                    supported: FORMAT_VERSION,
                });
            }
        };
        let manifest: Self = parsed.map_err(|e| bad(e.to_string()))?;
        manifest.check().map_err(bad)?;
        Ok(manifest)
    }

    /// The text of a manifest: indented for readers where one process wrote all, dense where the shards
    /// of many ranks would make it long.
    pub(crate) fn to_text(&self) -> Vec<u8> {
        let text = match self.files.len() {
            0 | 1 => serde_json::to_vec_pretty(self),
            _ => serde_json::to_vec(self),
        };
        let mut text = text.expect("a manifest has only string keys");
        text.push(b'\n');
        text
    }

    /// Says what is wrong, if the manifest does not agree with itself.
    pub(crate) fn check(&self) -> Result<(), String> {
        // The bytes each file still has for tensors that are not yet seen.
        let mut room = HashMap::new();
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
            if room.insert(file.name.as_str(), file.bytes - file.header_bytes).is_some() {
                return Err(format!("file `{}` is listed twice", file.name));
            }
        }
        let mut paths = HashSet::new();
        for tensor in &self.tensors {
            if tensor.path.is_empty() || !paths.insert(tensor.path.as_str()) {
                return Err(format!("tensor `{}` is listed twice or unnamed", tensor.path));
            }
            check_shards(tensor, &mut room)?;
        }
        match room.iter().find(|(_, left)| **left != 0) {
            Some((name, left)) => Err(format!("{left} bytes of `{name}` belong to no tensor")),
            None => Ok(()),
        }
    }
}

/// The shards tile the tensor without gap or overlap, and the files have room for them.
fn check_shards(tensor: &TensorEntry, room: &mut HashMap<&str, u64>) -> Result<(), String> {
    let path = &tensor.path;
    let n = tensor.n_elements().ok_or_else(|| format!("tensor `{path}` is impossibly large"))?;
    let mut shards = Vec::with_capacity(tensor.shards.len());
    let mut used = HashSet::new();
    for entry in &tensor.shards {
        let file = entry.file.as_str();
        let shard = tensor
            .shard(entry)
            .map_err(|e| format!("tensor `{path}` in `{file}`: {}", without_help(&e)))?;
        if !is_hash(&entry.blake3) {
            return Err(format!("blake3 of `{path}` is no BLAKE3 hash"));
        }
        // One key per tensor and file, so a second shard in a file would be the same bytes.
        if !used.insert(file) {
            return Err(format!("tensor `{path}` has two shards in `{file}`"));
        }
        let left = room
            .get_mut(file)
            .ok_or_else(|| format!("tensor `{path}` lies in `{file}`, which is not listed"))?;
        // No overflow: the elements of the whole tensor were multiplied by the size before.
        *left = left
            .checked_sub((shard.len() * tensor.dtype.size()) as u64)
            .ok_or_else(|| format!("tensor `{path}` does not fit into `{file}`"))?;
        shards.push((shard, file));
    }
    tiling::check(n, &shards)
        .map_err(|reason| format!("tensor `{path}` of shape {:?}: {reason}", tensor.shape))
}

/// The file of a writer.
pub(crate) fn file_name(rank: usize) -> String {
    format!("rank-{rank:05}.safetensors")
}

/// Exactly what [`file_name`] makes of up to five digits: no separators, no dots, nowhere else to go.
pub(crate) fn is_file_name(name: &str) -> bool {
    name.strip_prefix("rank-")
        .and_then(|rest| rest.strip_suffix(".safetensors"))
        .is_some_and(|rank| rank.len() == 5 && rank.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests;
