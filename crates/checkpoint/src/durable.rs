//! Files and directories that survive a power cut: what is synced, and in which order.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

use crate::error::CheckpointError;

/// How often a directory is removed again that has filled up while it was emptied.
const REMOVE_AGAIN: usize = 10;

/// Writes a new file and syncs it.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    let mut file = File::create(path).map_err(CheckpointError::io(path, "create the file"))?;
    file.write_all(bytes).map_err(CheckpointError::io(path, "write the file"))?;
    file.sync_all().map_err(CheckpointError::io(path, "sync the file to disk"))
}

/// Makes the names inside a directory durable.
pub(crate) fn sync_dir(path: &Path) -> Result<(), CheckpointError> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(CheckpointError::io(path, "sync the directory to disk"))
}

/// Renames within one directory; durable once that directory is synced.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), CheckpointError> {
    fs::rename(from, to).map_err(CheckpointError::io(to, "rename into place"))
}

/// Creates a directory with its parents.
pub(crate) fn create_dir(path: &Path) -> Result<(), CheckpointError> {
    fs::create_dir_all(path).map_err(CheckpointError::io(path, "create the directory"))
}

/// Removes a directory with its content; one that is gone already is no error.
pub(crate) fn remove_dir(path: &Path) -> Result<(), CheckpointError> {
    // A rank that does not know yet that its save was given up may make its one file meanwhile.
    let mut result = fs::remove_dir_all(path);
    for _ in 0..REMOVE_AGAIN {
        match &result {
            Err(e) if e.kind() == ErrorKind::DirectoryNotEmpty => {
                result = fs::remove_dir_all(path);
            }
            _ => break,
        }
    }
    match result {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        result => result.map_err(CheckpointError::io(path, "remove the directory")),
    }
}
