//! The files of a checkpoint: mapped into memory when they are needed, checked before they are believed.
#![allow(unsafe_code, reason = "memory maps; see the SAFETY note")]

use std::collections::HashMap;
use std::fs::File;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::Metadata;

use crate::error::CheckpointError;
use crate::hash::hash;
use crate::manifest::{FileEntry, Manifest};
use crate::rank_file::shape_in_file;

/// One file of tensors. It is opened, and its header checked, with the first shard that is asked for;
/// the bytes of each shard are hashed once, before they are handed out for the first time.
#[derive(Debug)]
pub(crate) struct ShardFile {
    path: PathBuf,
    /// In `manifest.files`.
    index: usize,
    /// What the manifest says is in it.
    slots: Vec<Slot>,
    opened: OnceLock<Opened>,
}

#[derive(Debug)]
struct Slot {
    /// In `manifest.tensors`.
    tensor: usize,
    /// In the shards of that tensor.
    shard: usize,
    /// The bytes have the hash they should have.
    checked: AtomicBool,
}

#[derive(Debug)]
pub(crate) struct Opened {
    map: Option<Mmap>,
    /// Where each slot lies.
    ranges: Vec<Range<usize>>,
}

impl Opened {
    fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }
}

impl ShardFile {
    /// All files of a checked manifest in `dir`, none of them touched yet.
    pub(crate) fn all(dir: &Path, manifest: &Manifest) -> Vec<Self> {
        let mut files: Vec<Self> = manifest
            .files
            .iter()
            .enumerate()
            .map(|(index, file)| Self {
                path: dir.join(&file.name),
                index,
                slots: Vec::new(),
                opened: OnceLock::new(),
            })
            .collect();
        let index_of: HashMap<&str, usize> =
            manifest.files.iter().enumerate().map(|(i, file)| (file.name.as_str(), i)).collect();
        for (tensor, entry) in manifest.tensors.iter().enumerate() {
            for (shard, part) in entry.shards.iter().enumerate() {
                let checked = AtomicBool::new(false);
                files[index_of[part.file.as_str()]].slots.push(Slot { tensor, shard, checked });
            }
        }
        files
    }

    /// (tensor, shard) of each slot, as in the manifest.
    pub(crate) fn slots(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.slots.iter().map(|slot| (slot.tensor, slot.shard))
    }

    /// Maps the file and holds its size and its header against the manifest, once.
    pub(crate) fn open(&self, manifest: &Manifest) -> Result<&Opened, CheckpointError> {
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        let file = &manifest.files[self.index];
        let map = map_file(&self.path, file)?;
        let ranges = self.check_header(manifest, map.as_deref().unwrap_or(&[]))?;
        // Another thread may have been quicker; both found the same.
        Ok(self.opened.get_or_init(|| Opened { map, ranges }))
    }

    /// The bytes of a slot, hashed if they were not yet.
    pub(crate) fn bytes(&self, manifest: &Manifest, slot: usize) -> Result<&[u8], CheckpointError> {
        let opened = self.open(manifest)?;
        let bytes = &opened.bytes()[opened.ranges[slot].clone()];
        let Slot { tensor, shard, checked } = &self.slots[slot];
        if !checked.load(Ordering::Relaxed) {
            // Two threads may both do this. A lock would be worse: hashing lends its thread to other
            // work, which may want the same shard.
            let tensor = &manifest.tensors[*tensor];
            let (expected, found) = (&tensor.shards[*shard].blake3, hash(bytes));
            if found != *expected {
                let what = format!("the BLAKE3 of tensor `{}`", tensor.path);
                return Err(self.damaged(what, expected.clone(), found));
            }
            checked.store(true, Ordering::Relaxed);
        }
        Ok(bytes)
    }

    /// Holds the header against the manifest; returns where each slot lies.
    fn check_header(
        &self,
        manifest: &Manifest,
        bytes: &[u8],
    ) -> Result<Vec<Range<usize>>, CheckpointError> {
        let file = &manifest.files[self.index];
        let header_bytes = file.header_bytes as usize; // at most `file.bytes`, the map's length
        let found = hash(&bytes[..header_bytes]);
        if found != file.header_blake3 {
            let what = "the BLAKE3 of its header".to_owned();
            return Err(self.damaged(what, file.header_blake3.clone(), found));
        }
        let (json_bytes, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| {
            self.damaged("its header".to_owned(), "a safetensors header".to_owned(), e.to_string())
        })?;
        if json_bytes + 8 != header_bytes {
            let (expected, found) = (header_bytes.to_string(), (json_bytes + 8).to_string());
            return Err(self.damaged("the length of its header".to_owned(), expected, found));
        }
        let ranges = self
            .slots
            .iter()
            .map(|slot| self.range(manifest, slot, &metadata, header_bytes))
            .collect::<Result<Vec<_>, _>>()?;
        let found = metadata.tensors().len();
        if found != self.slots.len() {
            let what = "the number of its tensors".to_owned();
            return Err(self.damaged(what, self.slots.len().to_string(), found.to_string()));
        }
        Ok(ranges)
    }

    /// Where a slot lies, if the header says of it what the manifest says.
    fn range(
        &self,
        manifest: &Manifest,
        slot: &Slot,
        metadata: &Metadata,
        header_bytes: usize,
    ) -> Result<Range<usize>, CheckpointError> {
        let tensor = &manifest.tensors[slot.tensor];
        let shard = tensor.shard(&tensor.shards[slot.shard])?;
        let info = metadata.info(&tensor.path);
        let expected = (tensor.dtype.to_safetensors(), shape_in_file(&shard));
        match info {
            // The reader of safetensors has checked that these lie inside the file.
            Some(info) if (info.dtype, &info.shape) == (expected.0, &expected.1) => {
                Ok(header_bytes + info.data_offsets.0..header_bytes + info.data_offsets.1)
            }
            _ => {
                let what = format!("tensor `{}`", tensor.path);
                Err(self.damaged(what, format!("{expected:?}"), format!("{info:?}")))
            }
        }
    }

    fn damaged(&self, what: String, expected: String, found: String) -> CheckpointError {
        CheckpointError::Damaged { path: self.path.clone(), what, expected, found }
    }
}

/// Refuses what could block or never end, such as a named pipe.
pub(crate) fn regular_file(path: &Path) -> Result<u64, CheckpointError> {
    let found = match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => return Ok(metadata.len()),
        Ok(_) => "something else",
        Err(e) if e.kind() == ErrorKind::NotFound => "missing",
        Err(e) => return Err(CheckpointError::io(path, "look at the file")(e)),
    };
    Err(CheckpointError::Damaged {
        path: path.to_owned(),
        what: "it".to_owned(),
        expected: "a regular file".to_owned(),
        found: found.to_owned(),
    })
}

fn map_file(path: &Path, entry: &FileEntry) -> Result<Option<Mmap>, CheckpointError> {
    let size = regular_file(path)?;
    let file = File::open(path).map_err(CheckpointError::io(path, "open the file"))?;
    if size != entry.bytes {
        return Err(CheckpointError::Damaged {
            path: path.to_owned(),
            what: "its size".to_owned(),
            expected: format!("{} bytes", entry.bytes),
            found: format!("{size} bytes"),
        });
    }
    if size == 0 {
        return Ok(None); // an empty map is an error of the system call
    }
    // SAFETY: a committed checkpoint is never written again (`save` replaces whole directories, `prune`
    // unlinks, both of which leave mapped pages alone), and a rank's file that is to be committed was
    // closed by its writer; so the bytes do not change while they are borrowed. A foreign program that
    // truncates the file is outside of what a process can guard against.
    let map = unsafe { Mmap::map(&file) };
    map.map(Some).map_err(CheckpointError::io(path, "map the file into memory"))
}
