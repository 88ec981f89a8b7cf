//! A folder that appears whole or not at all: everything is written into a hidden folder beside it,
//! made durable, and renamed.
//!
//! The hidden folder is `.NAME.caravan-build-PID-N` and holds a file `LOCK` that its process keeps
//! locked. The system drops the lock when the process ends, however it ends; so the next build in
//! the same place can tell what a crash left behind and removes it, and never touches the folder of
//! a process that lives.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::DatasetError;

const MARK: &str = ".caravan-build-";
const LOCK: &str = "LOCK";

/// A folder under construction; removed on drop unless committed.
#[derive(Debug)]
pub(crate) struct Staging {
    folder: PathBuf,
    out: PathBuf,
    lock: Option<File>,
    committed: bool,
}

impl Staging {
    /// Begins the folder that will be `out`, which must be absent or empty; removes what crashed
    /// builds left beside it.
    pub(crate) fn create(out: &Path) -> Result<Self, DatasetError> {
        refuse_existing(out)?;
        // A last component of `..` or `/` names a folder that exists, so it was refused or has a
        // name.
        let name = out.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let parent = parent(out);
        fs::create_dir_all(&parent).map_err(DatasetError::io("create", &parent))?;
        remove_stale(&parent)?;
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let n = COUNTER.fetch_add(1, Ordering::Relaxed);
        let folder = parent.join(format!(".{name}{MARK}{}-{n}", std::process::id()));
        fs::create_dir(&folder).map_err(DatasetError::io("create", &folder))?;
        let mut staging = Self { folder, out: out.to_owned(), lock: None, committed: false };
        let path = staging.folder.join(LOCK);
        let lock = File::create_new(&path).map_err(DatasetError::io("create", &path))?;
        // A file system without locks makes every folder look alive, which only means that nothing
        // is cleaned up.
        let _ = lock.try_lock();
        staging.lock = Some(lock);
        Ok(staging)
    }

    /// Where to write.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Gives the folder its name. All files in it must be durable already.
    pub(crate) fn commit(mut self) -> Result<(), DatasetError> {
        let lock = self.folder.join(LOCK);
        fs::remove_file(&lock).map_err(DatasetError::io("remove", &lock))?;
        sync_folder(&self.folder)?;
        if let Err(error) = fs::rename(&self.folder, &self.out) {
            refuse_existing(&self.out)?;
            return Err(DatasetError::io("rename", &self.folder)(error));
        }
        self.committed = true;
        sync_folder(&parent(&self.out))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.committed {
            // What cannot be removed now is removed by the next build; an error already travels.
            let _ = fs::remove_dir_all(&self.folder);
        }
        self.lock = None;
    }
}

fn refuse_existing(out: &Path) -> Result<(), DatasetError> {
    match out.symlink_metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(DatasetError::io("read", out)(error)),
        Ok(meta) => {
            let empty = meta.is_dir()
                && fs::read_dir(out).map_err(DatasetError::io("read", out))?.next().is_none();
            if empty { Ok(()) } else { Err(DatasetError::OutputExists { path: out.to_owned() }) }
        }
    }
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Removes folders of ours whose process is gone. One without a lock file was caught between two
/// steps, just made or about to be renamed: then the process number in its name decides.
fn remove_stale(parent: &Path) -> Result<(), DatasetError> {
    for entry in fs::read_dir(parent).map_err(DatasetError::io("read", parent))? {
        let entry = entry.map_err(DatasetError::io("read", parent))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with('.') || !name.contains(MARK) || !entry.path().is_dir() {
            continue;
        }
        let Ok(lock) = File::open(entry.path().join(LOCK)) else {
            if is_of_a_dead_process(&name) {
                fs::remove_dir_all(entry.path())
                    .map_err(DatasetError::io("remove", entry.path()))?;
            }
            continue;
        };
        match lock.try_lock() {
            Ok(()) => fs::remove_dir_all(entry.path())
                .map_err(DatasetError::io("remove", entry.path()))?,
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
    Ok(())
}

/// Whether the system says that the process in the folder's name is gone; a system that cannot say
/// keeps the folder.
fn is_of_a_dead_process(name: &str) -> bool {
    let Some((_, ending)) = name.rsplit_once(MARK) else { return false };
    let Some((Ok(pid), Ok(_))) =
        ending.split_once('-').map(|(pid, n)| (pid.parse::<u32>(), n.parse::<u64>()))
    else {
        return false;
    };
    Path::new("/proc/self").exists() && !Path::new("/proc").join(pid.to_string()).exists()
}

/// Makes the entries of a folder durable.
fn sync_folder(path: &Path) -> Result<(), DatasetError> {
    #[cfg(unix)]
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(DatasetError::io("sync", path))?;
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_when_not_committed() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("set");
        let staging = Staging::create(&out).unwrap();
        fs::write(staging.folder().join("a"), "1").unwrap();
        drop(staging);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn commit_renames_and_refuses_what_appeared_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("deep/set");
        let (first, second) = (Staging::create(&out).unwrap(), Staging::create(&out).unwrap());
        fs::write(first.folder().join("a"), "1").unwrap();
        fs::write(second.folder().join("a"), "2").unwrap();
        first.commit().unwrap();
        assert!(matches!(second.commit(), Err(DatasetError::OutputExists { .. })));
        assert_eq!(fs::read_to_string(out.join("a")).unwrap(), "1");
        assert!(matches!(Staging::create(&out), Err(DatasetError::OutputExists { .. })));
        let names: Vec<_> = fs::read_dir(dir.path().join("deep")).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }

    #[test]
    fn stale_folders_go_and_live_or_foreign_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let stale = dir.path().join(format!(".set{MARK}1-0"));
        fs::create_dir(&stale).unwrap();
        fs::write(stale.join(LOCK), "").unwrap();
        fs::write(stale.join("train-00000.shard"), "half").unwrap();
        let foreign = dir.path().join(format!(".set{MARK}mine"));
        fs::create_dir(&foreign).unwrap();
        fs::write(foreign.join("notes.txt"), "keep me").unwrap();
        let live = Staging::create(&dir.path().join("other")).unwrap();
        let next = Staging::create(&dir.path().join("set")).unwrap();
        assert!(!stale.exists());
        // No process has the largest number; `/proc` is there on Linux alone.
        let unlocked = dir.path().join(format!(".set{MARK}{}-0", u32::MAX));
        fs::create_dir(&unlocked).unwrap();
        drop(Staging::create(&dir.path().join("third")).unwrap());
        assert_eq!(unlocked.exists(), !Path::new("/proc/self").exists());
        assert!(foreign.join("notes.txt").exists());
        assert!(live.folder().exists() && next.folder().exists());
    }
}
