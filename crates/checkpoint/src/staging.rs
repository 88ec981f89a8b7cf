//! The directory in which a checkpoint is put together, and the moment it becomes one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::durable::{create_dir, remove_dir, rename, sync_dir, write_file};
use crate::error::{CheckpointError, without_help};
use crate::files::ShardFile;
use crate::hash::hash;
use crate::load::Checkpoint;
use crate::manifest::{FORMAT_VERSION, Manifest, Meta, ShardEntry, TensorEntry, file_name};
use crate::rank_file::RankFile;
use crate::root::{self, MANIFEST, MANIFEST_HASH};

/// A checkpoint that several ranks are about to save together. Rank 0 holds it; dropped before
/// [`commit`](Self::commit) it removes what was written.
///
/// ```text
/// rank 0                                      every rank (rank 0 too)
///   staging = Staging::begin(root, step)
///   send staging.name() to all     ------->     report = save_rank(root, name, rank, tensors)
///   gather the reports             <-------     send report.to_json() to rank 0
///   staging.commit(meta, reports)
///   tell all how it went           ------->
/// ```
///
/// What travels is plain bytes; how is the caller's business. If a rank fails, all reports must still
/// be waited for, then the staging is dropped. All hosts must see `root` on one file system on which a
/// file that was synced and closed by one host is seen by another that opens it afterwards, as NFS and
/// the parallel file systems of clusters promise.
///
/// A kill of any rank, or all of them, at any instruction leaves the previous checkpoint or the new
/// one: nothing but the renames in `commit` touches what others read, and only rank 0 makes them, after
/// every file is on disk. What a kill leaves behind goes with the next `begin` or [`crate::prune`].
#[derive(Debug)]
pub struct Staging {
    root: PathBuf,
    step: u64,
    name: String,
    dir: PathBuf,
}

impl Staging {
    /// Makes the directory for `step` under `root` (created if absent), after removing what killed runs
    /// left. The caller holds the [`crate::RunLock`]: one save at a time.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn begin(root: &Path, step: u64) -> Result<Self, CheckpointError> {
        if !root.is_dir() {
            create_dir(root)?;
            root.parent().map_or(Ok(()), sync_dir)?;
        }
        root::clean(root)?;
        let name = root::staging_name(step);
        let dir = root.join(&name);
        std::fs::create_dir(&dir).map_err(CheckpointError::io(&dir, "create the directory"))?;
        Ok(Self { root: root.to_owned(), step, name, dir })
    }

    /// What the other ranks need to know: see [`crate::save_rank`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes the files of all ranks one checkpoint, the newest, and returns its directory.
    ///
    /// `files` are the reports of all ranks, in any order. Together they must hold every element of
    /// every tensor exactly once: of copies, one rank saves and the others do not. The files are there
    /// and have the size and the header that was reported; their tensors are not read again.
    ///
    /// # Errors
    /// [`CheckpointError::NotWhole`], [`CheckpointError::BadReport`], [`CheckpointError::NotShared`],
    /// [`CheckpointError::Io`]. Earlier checkpoints are then as before.
    pub fn commit(self, meta: &Meta, mut files: Vec<RankFile>) -> Result<PathBuf, CheckpointError> {
        files.sort_by_key(|file| file.rank);
        let ranks: Vec<usize> = files.iter().map(|file| file.rank).collect();
        let manifest = self.assemble(meta, files)?;
        self.check_files(&manifest, &ranks)?;
        let text = manifest.to_text();
        let hash = hash(&text);
        write_file(&self.dir.join(MANIFEST), &text)?;
        write_file(&self.dir.join(MANIFEST_HASH), root::hash_line(&hash).as_bytes())?;
        sync_dir(&self.dir)?;
        let dir = rename_into_place(&self.root, self.step, &self.dir, &hash)?;
        root::write_latest(&self.root, self.step, &hash)?;
        Ok(dir)
    }

    /// One manifest of all reports, which are in order of rank; checked.
    fn assemble(&self, meta: &Meta, files: Vec<RankFile>) -> Result<Manifest, CheckpointError> {
        let not_whole = |reason| CheckpointError::NotWhole { step: self.step, reason };
        let mut manifest = Manifest {
            format_version: FORMAT_VERSION,
            step: self.step,
            config: meta.config.clone(),
            tokenizer_hash: meta.tokenizer_hash.clone(),
            data: meta.data.clone(),
            state: meta.state.clone(),
            tensors: Vec::new(),
            files: Vec::with_capacity(files.len()),
        };
        let mut index_of: HashMap<String, usize> = HashMap::new();
        for RankFile { staging, rank, file, tensors } in files {
            let bad = |reason| Err(CheckpointError::BadReport { reason });
            if staging != self.name {
                return bad(format!(
                    "rank {rank} wrote into `{staging}`, this save is `{}`",
                    self.name
                ));
            }
            if file.name != file_name(rank) {
                return bad(format!("rank {rank} does not write a file `{}`", file.name));
            }
            for part in tensors {
                let index = *index_of.entry(part.path.clone()).or_insert_with(|| {
                    manifest.tensors.push(TensorEntry {
                        path: part.path.clone(),
                        dtype: part.dtype,
                        shape: part.shape.clone(),
                        shards: Vec::new(),
                    });
                    manifest.tensors.len() - 1
                });
                let tensor = &mut manifest.tensors[index];
                if (tensor.dtype, &tensor.shape) != (part.dtype, &part.shape) {
                    return Err(not_whole(format!(
                        "tensor `{}` is {}{:?} in `{}`, but {}{:?} on an earlier rank",
                        part.path, part.dtype, part.shape, file.name, tensor.dtype, tensor.shape
                    )));
                }
                if tensor.n_elements() != Some(0) {
                    tensor.shards.push(ShardEntry {
                        file: file.name.clone(),
                        start: part.start,
                        extent: part.extent,
                        flat: part.flat,
                        blake3: part.blake3,
                    });
                }
            }
            manifest.files.push(file);
        }
        manifest.check().map_err(not_whole)?;
        Ok(manifest)
    }

    /// This host sees what the ranks say they wrote; `ranks` are those of the manifest's files.
    fn check_files(&self, manifest: &Manifest, ranks: &[usize]) -> Result<(), CheckpointError> {
        for (file, &rank) in ShardFile::all(&self.dir, manifest).iter().zip(ranks) {
            file.open(manifest).map_err(|error| match error {
                CheckpointError::Damaged { .. } => {
                    CheckpointError::NotShared { rank, problem: without_help(&error) }
                }
                error => error,
            })?;
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After a commit it is gone. Else what was written is of no use; a failure to remove it is left
        // to the next clean-up, the error that led here being the one to tell.
        let _ = remove_dir(&self.dir);
    }
}

/// Gives the synced directory its final name. A kill between any two lines leaves a root that
/// [`root::list`] reads rightly and [`root::clean`] tidies.
fn rename_into_place(
    root: &Path,
    step: u64,
    staging: &Path,
    hash: &str,
) -> Result<PathBuf, CheckpointError> {
    let dir = root::step_dir(root, step);
    if !dir.exists() {
        rename(staging, &dir)?;
        sync_dir(root)?;
        return Ok(dir);
    }
    // Saved before, by a run that was killed ahead of `LATEST`: usually the very same bytes.
    if Checkpoint::open(&dir).is_ok_and(|old| old.manifest_hash() == hash) {
        remove_dir(staging)?;
        return Ok(dir);
    }
    // If `LATEST` names this very step, it must hold for the old bytes and for the new ones meanwhile.
    root::announce_replacement(root, step, hash)?;
    let replaced = root::replaced_dir(root, step);
    rename(&dir, &replaced)?;
    rename(staging, &dir)?;
    sync_dir(root)?;
    remove_dir(&replaced)?;
    Ok(dir)
}
