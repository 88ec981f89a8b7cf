//! Opening a checkpoint: every byte is checked before it is handed out.
//!
//! Files are mapped into memory, so loading a tensor copies only what the caller keeps. [`Checkpoint::open`]
//! checks everything at once; [`Checkpoint::open_lazy`] leaves each file alone until something in it is
//! read.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::CheckpointError;
use crate::files::{ShardFile, regular_file};
use crate::hash::hash;
use crate::manifest::Manifest;
use crate::root::{MANIFEST, MANIFEST_HASH, hash_line};
use crate::shard::Shard;
use crate::tensor::Dtype;

/// A manifest larger than this is refused: 405B parameters, with both moments cut into a thousand
/// ranges each, stay below.
const MAX_MANIFEST_BYTES: u64 = 1 << 30;

/// An open checkpoint. May be shared by threads.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    pub(crate) manifest: Manifest,
    manifest_hash: String,
    /// Index of each tensor.
    by_path: HashMap<String, usize>,
    /// In the order of `manifest.files`.
    pub(crate) files: Vec<ShardFile>,
    /// Where each shard of each tensor lies, as in `manifest.tensors`.
    pub(crate) places: Vec<Vec<Place>>,
}

/// A shard of a tensor, in one of the files.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) shard: Shard,
    pub(crate) file: usize,
    /// Which of the file's shards.
    pub(crate) slot: usize,
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
    /// Opens the checkpoint in `dir` and verifies every byte of it.
    ///
    /// # Errors
    /// [`CheckpointError::NotACheckpoint`], [`CheckpointError::NewerFormat`],
    /// [`CheckpointError::BadManifest`], [`CheckpointError::Damaged`] or [`CheckpointError::Io`].
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        let checkpoint = Self::open_lazy(dir)?;
        checkpoint.verify()?;
        Ok(checkpoint)
    }

    /// Opens the checkpoint in `dir` and verifies its manifest.
    ///
    /// A file is opened when a shard in it is read, and a saved shard is hashed, all of it, the first
    /// time that any of its elements are read: so a rank that needs a part touches no more files than
    /// hold that part, and finds out late about damage, in whatever it reads. The directory must stay
    /// until all is read; a save of the same step or [`crate::prune`] may take it away.
    ///
    /// # Errors
    /// [`CheckpointError::NotACheckpoint`], [`CheckpointError::NewerFormat`],
    /// [`CheckpointError::BadManifest`], [`CheckpointError::Damaged`] or [`CheckpointError::Io`].
    pub fn open_lazy(dir: &Path) -> Result<Self, CheckpointError> {
        let (manifest, manifest_hash) = read_manifest(dir)?;
        let files = ShardFile::all(dir, &manifest);
        let mut places: Vec<Vec<Place>> =
            manifest.tensors.iter().map(|t| Vec::with_capacity(t.shards.len())).collect();
        for (index, file) in files.iter().enumerate() {
            for (slot, (tensor, shard)) in file.slots().enumerate() {
                let entry = &manifest.tensors[tensor];
                let shard = entry.shard(&entry.shards[shard])?;
                places[tensor].push(Place { shard, file: index, slot });
            }
        }
        let by_path =
            manifest.tensors.iter().enumerate().map(|(i, t)| (t.path.clone(), i)).collect();
        Ok(Self { dir: dir.to_owned(), manifest, manifest_hash, by_path, files, places })
    }

    /// Verifies every byte that was not read yet.
    ///
    /// # Errors
    /// [`CheckpointError::Damaged`] or [`CheckpointError::Io`].
    pub fn verify(&self) -> Result<(), CheckpointError> {
        for file in &self.files {
            file.open(&self.manifest)?;
        }
        for file in &self.files {
            for (slot, _) in file.slots().enumerate() {
                file.bytes(&self.manifest, slot)?;
            }
        }
        Ok(())
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

    /// The whole tensor saved as `path`.
    ///
    /// # Errors
    /// [`CheckpointError::NoTensor`]; after [`open_lazy`](Self::open_lazy) also
    /// [`CheckpointError::Damaged`] and [`CheckpointError::Io`].
    pub fn tensor(&self, path: &str) -> Result<TensorView<'_>, CheckpointError> {
        self.view(self.index(path)?)
    }

    /// All tensors, in the order of the manifest.
    pub fn tensors(&self) -> impl Iterator<Item = Result<TensorView<'_>, CheckpointError>> {
        (0..self.manifest.tensors.len()).map(|index| self.view(index))
    }

    /// The values of an f32 tensor.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor), and [`CheckpointError::TensorMismatch`] for another element type.
    pub fn f32_values(&self, path: &str) -> Result<Vec<f32>, CheckpointError> {
        let shape = &self.manifest.tensors[self.index(path)?].shape;
        self.read(path, &Shard::whole(shape))
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
        self.check_shape(self.index(path)?, shape)?;
        self.f32_values(path)
    }

    /// Index of a tensor in the manifest.
    pub(crate) fn index(&self, path: &str) -> Result<usize, CheckpointError> {
        self.by_path.get(path).copied().ok_or_else(|| {
            let tensors = self.manifest.tensors.iter();
            let nearest = tensors.map(|t| &t.path).max_by_key(|p| likeness(p, path));
            CheckpointError::NoTensor {
                dir: self.dir.clone(),
                path: path.to_owned(),
                nearest: nearest.cloned(),
            }
        })
    }

    pub(crate) fn check_shape(&self, index: usize, shape: &[usize]) -> Result<(), CheckpointError> {
        let found = &self.manifest.tensors[index].shape;
        if found == shape {
            return Ok(());
        }
        Err(self.mismatch(index, format!("of shape {shape:?}"), format!("of shape {found:?}")))
    }

    pub(crate) fn check_dtype(&self, index: usize, dtype: Dtype) -> Result<(), CheckpointError> {
        let found = self.manifest.tensors[index].dtype;
        if found == dtype {
            return Ok(());
        }
        Err(self.mismatch(index, dtype.to_string(), found.to_string()))
    }

    fn mismatch(&self, index: usize, expected: String, found: String) -> CheckpointError {
        let path = self.manifest.tensors[index].path.clone();
        CheckpointError::TensorMismatch { dir: self.dir.clone(), path, expected, found }
    }

    fn view(&self, index: usize) -> Result<TensorView<'_>, CheckpointError> {
        let entry = &self.manifest.tensors[index];
        let bytes = match self.places[index].as_slice() {
            [one] if one.shard.is_box() => {
                Cow::Borrowed(self.files[one.file].bytes(&self.manifest, one.slot)?)
            }
            _ => Cow::Owned(self.read_bytes(&entry.path, &Shard::whole(&entry.shape))?),
        };
        Ok(TensorView { path: &entry.path, dtype: entry.dtype, shape: entry.shape.clone(), bytes })
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

/// Bytes that two names share at their ends: enough to point at the likely one.
fn likeness(a: &str, b: &str) -> usize {
    let start = a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
    start + a.bytes().rev().zip(b.bytes().rev()).take_while(|(x, y)| x == y).count()
}
