//! The one error type of this crate.

use std::io;
use std::ops::Range;
use std::path::PathBuf;

use thiserror::Error;

/// What can go wrong when a checkpoint is saved, opened or removed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The operating system refused.
    #[error("`{}`: cannot {doing}: {source}\nhelp: {}", path.display(), io_help(source))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A directory that holds no committed checkpoint.
    #[error(
        "`{}` is no checkpoint: it has no manifest.json\n\
         help: name a directory such as RUN/checkpoints/step-00000100", dir.display()
    )]
    NotACheckpoint {
        /// What was to be opened.
        dir: PathBuf,
    },
    /// The manifest was written by a later program.
    #[error(
        "`{}`: format version {found} is newer than {supported}, the newest this program reads\n\
         help: upgrade caravan, or resume with the version that wrote this checkpoint", path.display()
    )]
    NewerFormat {
        /// The manifest.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// [`crate::FORMAT_VERSION`].
        supported: u64,
    },
    /// The manifest is not one that this crate writes.
    #[error(
        "`{}`: {reason}\nhelp: the manifest is damaged or not from caravan; use another checkpoint",
        path.display()
    )]
    BadManifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file does not hold what the manifest says.
    #[error(
        "`{}` is damaged: {what} is {found}, expected {expected}\n\
         help: use another checkpoint; this one cannot be trusted", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which part of it.
        what: String,
        /// What the manifest promises.
        expected: String,
        /// What the file holds.
        found: String,
    },
    /// The checkpoint that is to be resumed from is missing or damaged.
    #[error("the latest checkpoint cannot be used: {}\nhelp: {}", without_help(.source), latest_help(.root, .name, .previous))]
    Latest {
        /// The checkpoints directory.
        root: PathBuf,
        /// The checkpoint's name.
        name: String,
        /// The newest good checkpoint before it.
        previous: Option<PathBuf>,
        /// What is wrong with it.
        #[source]
        source: Box<CheckpointError>,
    },
    /// `LATEST` names a directory that is not there.
    #[error(
        "`{}` names `{name}`, which does not exist\n\
         help: restore that directory, or delete LATEST to go on from the newest checkpoint there is",
        path.display()
    )]
    LatestMissing {
        /// The file `LATEST`.
        path: PathBuf,
        /// The name in it.
        name: String,
    },
    /// `LATEST` holds something else than a checkpoint's name and hash.
    #[error(
        "`{}` is damaged: it holds {found}\n\
         help: delete it to go on from the newest checkpoint beside it", path.display()
    )]
    BadLatest {
        /// The file `LATEST`.
        path: PathBuf,
        /// Its content, shortened.
        found: String,
    },
    /// A tensor that the checkpoint does not have.
    #[error(
        "`{}` has no tensor `{path}`{}\n\
         help: the checkpoint belongs to another model; resume with its own configuration",
        dir.display(), .nearest.as_ref().map(|n| format!("; the closest is `{n}`")).unwrap_or_default()
    )]
    NoTensor {
        /// The checkpoint.
        dir: PathBuf,
        /// The path asked for.
        path: String,
        /// The path that looks most like it.
        nearest: Option<String>,
    },
    /// A tensor of another type or shape than asked for.
    #[error(
        "`{}`: tensor `{path}` is {found}, expected {expected}\n\
         help: the checkpoint belongs to another model; resume with its own configuration",
        dir.display()
    )]
    TensorMismatch {
        /// The checkpoint.
        dir: PathBuf,
        /// The tensor.
        path: String,
        /// What was asked for.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A tensor handed to [`crate::save`] or [`crate::save_rank`] is not consistent.
    #[error(
        "tensor `{path}` cannot be saved: {reason}\nhelp: this is a mistake of the calling program"
    )]
    BadTensor {
        /// Its path.
        path: String,
        /// Why not.
        reason: String,
    },
    /// A box or a range that is no part of its tensor.
    #[error(
        "elements {flat:?} of the box {extent:?} at {start:?} are no part of a tensor of shape {shape:?}: \
         {reason}\nhelp: this is a mistake of the calling program"
    )]
    BadShard {
        /// Shape of the whole tensor.
        shape: Vec<usize>,
        /// First index of the box in each dim.
        start: Vec<usize>,
        /// Shape of the box.
        extent: Vec<usize>,
        /// The elements of the box.
        flat: Range<usize>,
        /// Why not.
        reason: String,
    },
    /// What the ranks saved is not every element of every tensor once, or does not fit together.
    #[error(
        "the files of the ranks make no checkpoint of step {step}: {reason}\n\
         help: each element must be saved by exactly one rank, of copies only one; this is a mistake of the calling program"
    )]
    NotWhole {
        /// The step.
        step: u64,
        /// What is missing or doubled.
        reason: String,
    },
    /// A rank cannot see what another one wrote.
    #[error(
        "rank {rank} and rank 0 do not see the same files: {problem}\n\
         help: choose an --out on a file system that all hosts share; earlier checkpoints are untouched, `--resume` goes on"
    )]
    NotShared {
        /// The rank whose file it is.
        rank: usize,
        /// What is not as it should be, and where.
        problem: String,
    },
    /// A rank's report on its file does not belong to this save.
    #[error(
        "a rank's report on its file cannot be used: {reason}\n\
         help: this is a mistake of the calling program, or the ranks run different versions of it"
    )]
    BadReport {
        /// Why not.
        reason: String,
    },
    /// [`crate::prune`] was asked to keep nothing.
    #[error(
        "keep_checkpoints is 0\nhelp: keep at least 1; without a checkpoint a run cannot go on"
    )]
    KeepNothing,
    /// Another process trains in this directory.
    #[error("`{}` is in use by {}\nhelp: {}", path.display(), holder(.pid), lock_help(.pid))]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// Who holds it, where it could be read.
        pid: Option<u32>,
    },
}

impl CheckpointError {
    pub(crate) fn io(
        path: impl Into<PathBuf>,
        doing: &'static str,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, doing, source }
    }
}

fn io_help(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some space or lower keep_checkpoints; earlier checkpoints are untouched, `--resume` goes on"
        }
        io::ErrorKind::FileTooLarge => {
            "raise the limit on file sizes (`ulimit -f`); earlier checkpoints are untouched, `--resume` goes on"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "make the directory writable or choose another one with --out"
        }
        io::ErrorKind::NotFound => "check the path",
        _ => "check the disk and the path; earlier checkpoints are untouched",
    }
}

/// The message of an error that is told inside another one, without its own help line.
pub(crate) fn without_help(error: &CheckpointError) -> String {
    let text = error.to_string();
    text.split("\nhelp: ").next().unwrap_or_default().to_owned()
}

fn latest_help(root: &std::path::Path, name: &str, previous: &Option<PathBuf>) -> String {
    let dir = root.join(name);
    match previous {
        Some(previous) => format!(
            "the newest good one before it is `{}`; to go on from there, delete `{}` and `{}`",
            previous.display(),
            dir.display(),
            root.join("LATEST").display()
        ),
        None => "no earlier checkpoint is good; restore a copy or start again in a new directory"
            .to_owned(),
    }
}

fn holder(pid: &Option<u32>) -> String {
    pid.map_or("another process".to_owned(), |pid| format!("process {pid}"))
}

fn lock_help(pid: &Option<u32>) -> String {
    match pid {
        Some(pid) => format!(
            "wait until it ends, stop it with `kill {pid}` (it saves first), or choose another directory with --out"
        ),
        None => "wait until it ends, or choose another directory with --out".to_owned(),
    }
}
