//! Opening a checkpoint: every byte is checked before any is handed out.
//!
//! Files are mapped into memory, so opening costs one pass over them and loading a tensor copies only
//! what the caller keeps.
#![allow(unsafe_code, reason = "memory maps; see the SAFETY note")]

use std::borrow::Cow;
use std::fs::File;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::SafeTensors;

use crate::error::CheckpointError;
use crate::manifest::{FileEntry, Manifest, ShardEntry, TensorEntry};
use crate::root::{MANIFEST, MANIFEST_HASH, hash_line};
use crate::save::hash;
use crate::tensor::Dtype;

/// A manifest larger than this is refused: 405B parameters on a thousand ranks stay far below.
const MAX_MANIFEST_BYTES: u64 = 1 << 30;

/// A verified checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    manifest: Manifest,
    manifest_hash: String,
    /// In the order of `manifest.files`.
    maps: Vec<Option<Mmap>>,
    /// Where each shard of each tensor lies in its file, as in `manifest.tensors`.
    places: Vec<Vec<Place>>,
}

#[derive(Debug)]
struct Place {
    file: usize,
    bytes: Range<usize>,
}

/// A tensor of an open checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorView<'a> {
    /// Its name.
    pub path: &'a str,
    /// Element type.
    pub dtype: Dtype,
    /// Global shape.
    pub shape: Vec<usize>,
    /// Little-endian bytes in row-major order; borrowed where the tensor lies in one piece.
    pub bytes: Cow<'a, [u8]>,
}

impl Checkpoint {
    /// Opens and verifies the checkpoint in `dir`.
    ///
    /// # Errors
    /// [`CheckpointError::NotACheckpoint`], [`CheckpointError::NewerFormat`],
    /// [`CheckpointError::BadManifest`], [`CheckpointError::Damaged`] or [`CheckpointError::Io`].
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        let (manifest, manifest_hash) = read_manifest(dir)?;
        let maps = manifest
            .files
            .iter()
            .map(|file| map_file(&dir.join(&file.name), file))
            .collect::<Result<Vec<_>, _>>()?;
        let mut places: Vec<Vec<Place>> =
            manifest.tensors.iter().map(|t| Vec::with_capacity(t.shards.len())).collect();
        for (index, (file, map)) in manifest.files.iter().zip(&maps).enumerate() {
            let bytes = map.as_deref().unwrap_or(&[]);
            check_file(&dir.join(&file.name), index, file, bytes, &manifest.tensors, &mut places)?;
        }
        Ok(Self { dir: dir.to_owned(), manifest, manifest_hash, maps, places })
    }

    /// Where it lies.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Updates made before it was saved.
    pub fn step(&self) -> u64 {
        self.manifest.step
    }

    /// Everything beside the tensors.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(crate) fn manifest_hash(&self) -> &str {
        &self.manifest_hash
    }

    /// The tensor saved as `path`.
    ///
    /// # Errors
    /// [`CheckpointError::NoTensor`].
    pub fn tensor(&self, path: &str) -> Result<TensorView<'_>, CheckpointError> {
        let tensors = &self.manifest.tensors;
        let index = tensors.iter().position(|t| t.path == path).ok_or_else(|| {
            let nearest = tensors.iter().map(|t| &t.path).max_by_key(|p| likeness(p, path));
            CheckpointError::NoTensor {
                dir: self.dir.clone(),
                path: path.to_owned(),
                nearest: nearest.cloned(),
            }
        })?;
        Ok(self.view(index))
    }

    /// All tensors, in the order of the manifest.
    pub fn tensors(&self) -> impl Iterator<Item = TensorView<'_>> {
        (0..self.manifest.tensors.len()).map(|index| self.view(index))
    }

    /// The values of an f32 tensor.
    ///
    /// # Errors
    /// [`CheckpointError::NoTensor`], or [`CheckpointError::TensorMismatch`] for another element type.
    pub fn f32_values(&self, path: &str) -> Result<Vec<f32>, CheckpointError> {
        let view = self.tensor(path)?;
        if view.dtype != Dtype::F32 {
            let (expected, found) = (Dtype::F32.to_string(), view.dtype.to_string());
            let (dir, path) = (self.dir.clone(), path.to_owned());
            return Err(CheckpointError::TensorMismatch { dir, path, expected, found });
        }
        let (values, _) = view.bytes.as_chunks::<4>();
        Ok(values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    /// As [`f32_values`](Self::f32_values) for a tensor that must have this shape.
    ///
    /// # Errors
    /// Also [`CheckpointError::TensorMismatch`] for another shape.
    pub fn f32_values_of_shape(
        &self,
        path: &str,
        shape: &[usize],
    ) -> Result<Vec<f32>, CheckpointError> {
        let found = self.tensor(path)?.shape;
        if found != shape {
            let (expected, found) = (format!("of shape {shape:?}"), format!("of shape {found:?}"));
            let (dir, path) = (self.dir.clone(), path.to_owned());
            return Err(CheckpointError::TensorMismatch { dir, path, expected, found });
        }
        self.f32_values(path)
    }

    fn view(&self, index: usize) -> TensorView<'_> {
        let entry = &self.manifest.tensors[index];
        let piece =
            |place: &Place| &self.maps[place.file].as_deref().unwrap_or(&[])[place.bytes.clone()];
        let bytes = match self.places[index].as_slice() {
            [one] => Cow::Borrowed(piece(one)),
            many => {
                Cow::Owned(many.iter().flat_map(|place| piece(place).iter().copied()).collect())
            }
        };
        TensorView {
            path: &entry.path,
            dtype: entry.dtype,
            shape: entry.shape.iter().map(|&d| d as usize).collect(),
            bytes,
        }
    }
}

/// The checked manifest of `dir` and its hash.
pub(crate) fn read_manifest(dir: &Path) -> Result<(Manifest, String), CheckpointError> {
    let path = dir.join(MANIFEST);
    let size = match std::fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => metadata.len(),
        Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Err(CheckpointError::io(path, "look at the manifest")(e));
        }
        _ => return Err(CheckpointError::NotACheckpoint { dir: dir.to_owned() }),
    };
    if size > MAX_MANIFEST_BYTES {
        let reason = format!("it has {size} bytes, more than any manifest needs");
        return Err(CheckpointError::BadManifest { path, reason });
    }
    let text = std::fs::read(&path).map_err(CheckpointError::io(&path, "read the manifest"))?;
    let found = hash(&text);
    let hash_path = dir.join(MANIFEST_HASH);
    regular_file(&hash_path)?;
    let line =
        std::fs::read(&hash_path).map_err(CheckpointError::io(&hash_path, "read the hash"))?;
    // A newer format may be hashed otherwise: let its version speak before the hash is missed.
    if line != hash_line(&found).as_bytes() {
        if let Err(newer @ CheckpointError::NewerFormat { .. }) = Manifest::parse(&text, &path) {
            return Err(newer);
        }
        let expected = String::from_utf8_lossy(&line).chars().take(64).collect();
        return Err(CheckpointError::Damaged {
            path,
            what: "its BLAKE3".to_owned(),
            expected,
            found,
        });
    }
    Ok((Manifest::parse(&text, &path)?, found))
}

/// Refuses what could block or never end, such as a named pipe.
fn regular_file(path: &Path) -> Result<u64, CheckpointError> {
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
    // unlinks, both of which leave mapped pages alone), so the bytes do not change while they are
    // borrowed. A foreign program that truncates the file is outside of what a process can guard against.
    let map = unsafe { Mmap::map(&file) };
    map.map(Some).map_err(CheckpointError::io(path, "map the file into memory"))
}

/// Holds one file against the manifest and notes where its tensors lie.
fn check_file(
    path: &Path,
    index: usize,
    file: &FileEntry,
    bytes: &[u8],
    tensors: &[TensorEntry],
    places: &mut [Vec<Place>],
) -> Result<(), CheckpointError> {
    let damaged = |what: String, expected: String, found: String| CheckpointError::Damaged {
        path: path.to_owned(),
        what,
        expected,
        found,
    };
    let header_bytes = file.header_bytes as usize; // at most `file.bytes`, which is the map's length
    let found = hash(&bytes[..header_bytes]);
    if found != file.header_blake3 {
        let what = "the BLAKE3 of its header".to_owned();
        return Err(damaged(what, file.header_blake3.clone(), found));
    }
    let (json_bytes, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| {
        damaged("its header".to_owned(), "a safetensors header".to_owned(), e.to_string())
    })?;
    if json_bytes + 8 != header_bytes {
        let (expected, found) = (header_bytes.to_string(), (json_bytes + 8).to_string());
        return Err(damaged("the length of its header".to_owned(), expected, found));
    }
    let mut n_tensors = 0;
    for (tensor, places) in tensors.iter().zip(places) {
        for shard in tensor.shards.iter().filter(|shard| shard.file == file.name) {
            n_tensors += 1;
            let info = metadata.info(&tensor.path);
            let expected = (tensor.dtype.to_safetensors(), shard_shape(tensor, shard));
            if info.map(|i| (i.dtype, i.shape.clone())) != Some(expected.clone()) {
                let what = format!("tensor `{}`", tensor.path);
                return Err(damaged(what, format!("{expected:?}"), format!("{info:?}")));
            }
            // The reader of safetensors has checked that these lie inside the file.
            let (start, end) = info.map_or((0, 0), |i| i.data_offsets);
            let range = header_bytes + start..header_bytes + end;
            let found = hash(&bytes[range.clone()]);
            if found != shard.blake3 {
                let what = format!("the BLAKE3 of tensor `{}`", tensor.path);
                return Err(damaged(what, shard.blake3.clone(), found));
            }
            places.push(Place { file: index, bytes: range });
        }
    }
    let found = metadata.tensors().len();
    if found != n_tensors {
        let what = "the number of its tensors".to_owned();
        return Err(damaged(what, n_tensors.to_string(), found.to_string()));
    }
    Ok(())
}

/// A whole tensor keeps its shape in the file, a part of one is flat.
fn shard_shape(tensor: &TensorEntry, shard: &ShardEntry) -> Vec<usize> {
    if tensor.shards.len() == 1 {
        tensor.shape.iter().map(|&d| d as usize).collect()
    } else {
        vec![(shard.end - shard.start) as usize]
    }
}

/// Bytes that two names share at their ends: enough to point at the likely one.
fn likeness(a: &str, b: &str) -> usize {
    let start = a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
    start + a.bytes().rev().zip(b.bytes().rev()).take_while(|(x, y)| x == y).count()
}
