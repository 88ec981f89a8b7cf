//! The directory of all checkpoints of a run: names, `LATEST`, listing, pruning, leftovers.
//!
//! | name | is |
//! |---|---|
//! | `step-00000123` | a committed checkpoint |
//! | `.saving-step-00000123.0f3a..` | one being written, or left by a kill: worthless |
//! | `.replaced-step-00000123` | the old one while a step is saved again; counts if the new one is absent |
//! | `.removed-step-00000123` | one being deleted: worthless |
//! | `LATEST`, `.LATEST` | see [`latest`]; the new one while it is written |

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::durable::{remove_dir, rename, sync_dir, write_file};
use crate::error::CheckpointError;
use crate::hash::is_hash;
use crate::load::{Checkpoint, read_manifest};

pub(crate) const MANIFEST: &str = "manifest.json";
pub(crate) const MANIFEST_HASH: &str = "manifest.json.b3";
const LATEST: &str = "LATEST";
const LATEST_TEMPORARY: &str = ".LATEST";
const SAVING: &str = ".saving-";
const REPLACED: &str = ".replaced-";
const REMOVED: &str = ".removed-";

/// A committed checkpoint, not opened yet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Updates made before it was saved.
    pub step: u64,
    /// Its directory.
    pub dir: PathBuf,
}

/// The directory of a step under `root`.
pub fn step_dir(root: &Path, step: u64) -> PathBuf {
    root.join(step_name(step))
}

/// All committed checkpoints by ascending step; foreign names are passed over. An absent `root` has none.
///
/// # Errors
/// [`CheckpointError::Io`] if `root` cannot be read.
pub fn list(root: &Path) -> Result<Vec<Listed>, CheckpointError> {
    let mut found = BTreeMap::new();
    for name in names(root)? {
        if let Some(step) = step_of(&name) {
            found.insert(step, root.join(&name));
        } else if let Some(step) = name.strip_prefix(REPLACED).and_then(step_of) {
            found.entry(step).or_insert_with(|| root.join(&name));
        }
    }
    // The final name wins over the one that is on its way out, in whatever order they were read.
    for (step, dir) in &mut found {
        let committed = step_dir(root, *step);
        if *dir != committed && committed.is_dir() {
            *dir = committed;
        }
    }
    Ok(found.into_iter().map(|(step, dir)| Listed { step, dir }).collect())
}

/// The directory of the checkpoint to go on from: the one `LATEST` names, or the newest committed one
/// where a kill came before the first `LATEST`; `None` in a run without checkpoints.
///
/// The tensors are not read; [`open_latest`] does that.
///
/// # Errors
/// [`CheckpointError::BadLatest`], [`CheckpointError::LatestMissing`], and
/// [`CheckpointError::Latest`] where the manifest is not the one that was committed.
pub fn latest(root: &Path) -> Result<Option<PathBuf>, CheckpointError> {
    let Some((listed, hashes)) = find_latest(root)? else { return Ok(None) };
    let checked = read_manifest(&listed.dir)
        .and_then(|(manifest, found)| check_identity(&listed, &hashes, manifest.step, &found));
    match checked {
        Ok(()) => Ok(Some(listed.dir)),
        Err(source) => Err(latest_error(root, &listed, source)),
    }
}

/// Opens and verifies the checkpoint that [`latest`] names.
///
/// # Errors
/// As [`latest`]; a damaged checkpoint is refused, the error names the newest good one before it.
pub fn open_latest(root: &Path) -> Result<Option<Checkpoint>, CheckpointError> {
    open_latest_by(root, Checkpoint::open)
}

/// Opens the checkpoint that [`latest`] names, but verifies only what is read of it, when it is read:
/// for a rank that needs a part. See [`Checkpoint::open_lazy`].
///
/// # Errors
/// As [`latest`].
pub fn open_latest_lazy(root: &Path) -> Result<Option<Checkpoint>, CheckpointError> {
    open_latest_by(root, Checkpoint::open_lazy)
}

fn open_latest_by(
    root: &Path,
    open: impl Fn(&Path) -> Result<Checkpoint, CheckpointError>,
) -> Result<Option<Checkpoint>, CheckpointError> {
    let Some((listed, hashes)) = find_latest(root)? else { return Ok(None) };
    let opened = open(&listed.dir).and_then(|checkpoint| {
        check_identity(&listed, &hashes, checkpoint.step(), checkpoint.manifest_hash())?;
        Ok(checkpoint)
    });
    opened.map(Some).map_err(|source| latest_error(root, &listed, source))
}

/// Removes all checkpoints but the newest `keep`, those for which `pinned` says yes and the one that
/// `LATEST` names. Returns the steps it removed. Also removes what killed runs left, so no save may be
/// under way.
///
/// # Errors
/// [`CheckpointError::KeepNothing`] for `keep` 0; [`CheckpointError::Io`].
pub fn prune(
    root: &Path,
    keep: usize,
    pinned: &dyn Fn(u64) -> bool,
) -> Result<Vec<u64>, CheckpointError> {
    if keep == 0 {
        return Err(CheckpointError::KeepNothing);
    }
    clean(root)?;
    let latest = find_latest(root)?.map(|(listed, _)| listed.step);
    let all = list(root)?;
    let n_old = all.len().saturating_sub(keep);
    let mut removed = Vec::new();
    for Listed { step, dir } in all.into_iter().take(n_old) {
        if Some(step) == latest || pinned(step) {
            continue;
        }
        // Out of the way by one rename first: a kill while deleting leaves nothing that looks whole.
        let doomed = root.join(format!("{REMOVED}{}", step_name(step)));
        rename(&dir, &doomed)?;
        sync_dir(root)?;
        remove_dir(&doomed)?;
        removed.push(step);
    }
    Ok(removed)
}

/// Removes what killed runs left; puts back a checkpoint whose replacement never came.
pub(crate) fn clean(root: &Path) -> Result<(), CheckpointError> {
    for name in names(root)? {
        let path = root.join(&name);
        let removed = name.strip_prefix(REMOVED).and_then(step_of).is_some();
        if removed || is_staging(&name) {
            remove_dir(&path)?;
        } else if let Some(step) = name.strip_prefix(REPLACED).and_then(step_of) {
            let dir = step_dir(root, step);
            if dir.exists() {
                remove_dir(&path)?;
            } else {
                rename(&path, &dir)?;
                sync_dir(root)?;
            }
        }
    }
    Ok(())
}

/// A new name for the directory in which a step is written before it has its final one.
///
/// Unlike any other, of this run or of a killed one: a rank that has outlived its run on another host
/// cannot write into what a later attempt at the same step makes.
pub(crate) fn staging_name(step: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut hasher = RandomState::new().build_hasher(); // keyed by the system's random numbers
    hasher.write_u128(now.as_nanos());
    hasher.write_u32(std::process::id());
    format!("{SAVING}{}.{:016x}", step_name(step), hasher.finish())
}

/// What [`staging_name`] makes: one directory right under the root, whoever sent the name. Older
/// programs made it without the number.
pub(crate) fn is_staging(name: &str) -> bool {
    let Some(name) = name.strip_prefix(SAVING) else { return false };
    let Some((step, attempt)) = name.split_once('.') else { return step_of(name).is_some() };
    let is_number = attempt.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    step_of(step).is_some() && attempt.len() == 16 && is_number
}

/// Where the old checkpoint of a step waits for the new one.
pub(crate) fn replaced_dir(root: &Path, step: u64) -> PathBuf {
    root.join(format!("{REPLACED}{}", step_name(step)))
}

/// What `manifest.json.b3` holds.
pub(crate) fn hash_line(hash: &str) -> String {
    format!("{hash}  {MANIFEST}\n")
}

/// Points `LATEST` at a committed step, in one rename.
pub(crate) fn write_latest(root: &Path, step: u64, hash: &str) -> Result<(), CheckpointError> {
    write_latest_text(root, &format!("{}\n{hash}\n", step_name(step)))
}

/// Adds the hash of a replacement to `LATEST` where that names `step`, so that it is right before,
/// between and after the renames.
pub(crate) fn announce_replacement(
    root: &Path,
    step: u64,
    hash: &str,
) -> Result<(), CheckpointError> {
    match read_latest(root)? {
        Some((named, hashes)) if named == step => {
            let mut text = format!("{}\n", step_name(step));
            // A kill may have left two already; the first is the older.
            for hash in hashes.iter().map(String::as_str).chain([hash]) {
                text += &format!("{hash}\n");
            }
            write_latest_text(root, &text)
        }
        _ => Ok(()),
    }
}

fn write_latest_text(root: &Path, text: &str) -> Result<(), CheckpointError> {
    let temporary = root.join(LATEST_TEMPORARY);
    write_file(&temporary, text.as_bytes())?;
    rename(&temporary, &root.join(LATEST))?;
    sync_dir(root)
}

/// The step in `LATEST` and the manifest hashes it accepts; `None` without the file.
fn read_latest(root: &Path) -> Result<Option<(u64, Vec<String>)>, CheckpointError> {
    let path = root.join(LATEST);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(CheckpointError::io(path, "read the file")(e)),
    };
    let parsed = std::str::from_utf8(&text).ok().and_then(|text| {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let step = step_of(lines.next()?)?;
        let hashes: Vec<String> = lines.map(str::to_owned).collect();
        (!hashes.is_empty() && hashes.iter().all(|h| is_hash(h))).then_some((step, hashes))
    });
    if parsed.is_none() {
        let found = String::from_utf8_lossy(&text).chars().take(40).collect::<String>();
        return Err(CheckpointError::BadLatest { path, found: format!("{found:?}") });
    }
    Ok(parsed)
}

/// The checkpoint to go on from, with the hashes its manifest may have (any, if there are none).
fn find_latest(root: &Path) -> Result<Option<(Listed, Vec<String>)>, CheckpointError> {
    let Some((step, hashes)) = read_latest(root)? else {
        return Ok(list(root)?.pop().map(|newest| (newest, Vec::new())));
    };
    match list(root)?.into_iter().find(|listed| listed.step == step) {
        Some(listed) => Ok(Some((listed, hashes))),
        None => {
            Err(CheckpointError::LatestMissing { path: root.join(LATEST), name: step_name(step) })
        }
    }
}

/// The directory holds the step its name says and the manifest that `LATEST` promises.
fn check_identity(
    listed: &Listed,
    hashes: &[String],
    step: u64,
    found: &str,
) -> Result<(), CheckpointError> {
    let path = listed.dir.join(MANIFEST);
    if step != listed.step {
        return Err(CheckpointError::Damaged {
            path,
            what: "its step".to_owned(),
            expected: listed.step.to_string(),
            found: step.to_string(),
        });
    }
    if hashes.is_empty() || hashes.iter().any(|hash| hash == found) {
        return Ok(());
    }
    Err(CheckpointError::Damaged {
        path,
        what: "its BLAKE3".to_owned(),
        expected: format!("{} as LATEST says", hashes.join(" or ")),
        found: found.to_owned(),
    })
}

fn latest_error(root: &Path, listed: &Listed, source: CheckpointError) -> CheckpointError {
    // A newer format is no damage, and an older checkpoint no answer to it.
    if matches!(source, CheckpointError::NewerFormat { .. }) {
        return source;
    }
    let earlier = list(root).unwrap_or_default().into_iter().rev();
    let previous = earlier
        .filter(|other| other.step < listed.step)
        .find(|other| Checkpoint::open(&other.dir).is_ok_and(|c| c.step() == other.step));
    CheckpointError::Latest {
        root: root.to_owned(),
        name: listed.dir.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        previous: previous.map(|other| other.dir),
        source: Box::new(source),
    }
}

fn names(root: &Path) -> Result<Vec<String>, CheckpointError> {
    let read = CheckpointError::io(root, "read the directory");
    let entries = match std::fs::read_dir(root) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(read(e)),
    };
    // Names that are no UTF-8 are not ours.
    entries
        .filter_map(|entry| entry.map(|e| e.file_name().into_string().ok()).transpose())
        .collect::<Result<_, _>>()
        .map_err(read)
}

fn step_name(step: u64) -> String {
    format!("step-{step:08}")
}

/// The step in a name that [`step_name`] makes, and only such a name.
fn step_of(name: &str) -> Option<u64> {
    let step = name.strip_prefix("step-")?.parse().ok()?;
    (step_name(step) == name).then_some(step)
}
