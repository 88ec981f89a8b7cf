//! Manifests of format version 1, read as what they are called today.
//!
//! Version 1 knew ranges of a tensor's own row-major order and no boxes, so each of its shards is a
//! shard of today whose box is the whole tensor. Everything else was as it is.

use serde::Deserialize;
use serde_json::Value;

use crate::manifest::{FileEntry, Manifest, ShardEntry, TensorEntry};
use crate::tensor::Dtype;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ManifestV1 {
    format_version: u64,
    step: u64,
    config: Value,
    tokenizer_hash: String,
    data: Value,
    state: Value,
    tensors: Vec<TensorV1>,
    files: Vec<FileEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TensorV1 {
    path: String,
    dtype: Dtype,
    shape: Vec<usize>,
    shards: Vec<ShardV1>,
}

/// Elements `start..end` of the tensor.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ShardV1 {
    file: String,
    start: usize,
    end: usize,
    blake3: String,
}

/// Reads the text of a manifest of version 1. It is not checked any further.
pub(crate) fn parse(text: &[u8]) -> Result<Manifest, serde_json::Error> {
    let old: ManifestV1 = serde_json::from_slice(text)?;
    Ok(Manifest {
        format_version: old.format_version,
        step: old.step,
        config: old.config,
        tokenizer_hash: old.tokenizer_hash,
        data: old.data,
        state: old.state,
        tensors: old.tensors.into_iter().map(tensor).collect(),
        files: old.files,
    })
}

fn tensor(old: TensorV1) -> TensorEntry {
    let TensorV1 { path, dtype, shape, shards } = old;
    let shards = shards
        .into_iter()
        .map(|ShardV1 { file, start, end, blake3 }| ShardEntry {
            file,
            start: vec![0; shape.len()],
            extent: shape.clone(),
            flat: [start, end],
            blake3,
        })
        .collect();
    TensorEntry { path, dtype, shape, shards }
}
