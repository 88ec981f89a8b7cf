//! One run per directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::durable::create_dir;
use crate::error::CheckpointError;

/// The right to write into a run directory, held until it is dropped or the process ends in whatever
/// way: the kernel keeps the lock, so nothing stale is left to clean up.
///
/// ```
/// use caravan_checkpoint::RunLock;
///
/// let run = tempfile::tempdir()?;
/// let lock = RunLock::acquire(run.path())?;
/// let message = RunLock::acquire(run.path()).unwrap_err().to_string();
/// assert!(message.contains(&format!("process {}", std::process::id())));
/// drop(lock);
/// RunLock::acquire(run.path())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct RunLock {
    path: PathBuf,
    _file: File,
}

impl RunLock {
    /// Name of the lock file in a run directory. It stays there; its presence means nothing.
    pub const FILE_NAME: &'static str = "lock";

    /// Takes the lock of the run directory `run` (created if absent) or says who has it.
    ///
    /// # Errors
    /// [`CheckpointError::Locked`] if another process, or this one, holds it; [`CheckpointError::Io`].
    pub fn acquire(run: &Path) -> Result<Self, CheckpointError> {
        create_dir(run)?;
        let path = run.join(Self::FILE_NAME);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(CheckpointError::io(&path, "open the lock file"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                // Best effort: the holder may not have written its number yet.
                let mut text = String::new();
                let pid =
                    file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(CheckpointError::Locked { path, pid });
            }
            Err(TryLockError::Error(e)) => {
                return Err(CheckpointError::io(path, "lock the file")(e));
            }
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(CheckpointError::io(&path, "write the lock file"))?;
        Ok(Self { path, _file: file })
    }

    /// The lock file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
