//! From the paths of a source to a list of files, in a fixed order and with nothing left out
//! unsaid.
//!
//! - A path that exists is taken as it is, even if it holds `*` or `[`. Otherwise a path with one
//!   of `* ? [` is a glob.
//! - A file named directly, or by a glob, is read whatever its extension: unknown ones as text.
//! - A folder is searched recursively, sorted by the bytes of the path; symbolic links are
//!   followed, each folder visited once. Only known extensions are read ([`EXTENSIONS`]).
//!   Everything else in it is listed in [`Files::skipped`] with the reason: names that begin with a
//!   dot (with all that lies below), unknown extensions, empty files, pipes and devices.
//! - A file that was already listed by an earlier path of the same source is skipped and listed
//!   too.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::formats::{self, EXTENSIONS};
use crate::{DatasetError, SourceSpec};

/// The files of a source, and those that were passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// To be read, in this order.
    pub files: Vec<PathBuf>,
    /// Seen and not read.
    pub skipped: Vec<Skipped>,
}

/// A file that is not read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Skipped {
    /// Its path.
    pub path: PathBuf,
    /// Why.
    pub reason: SkipReason,
}

/// Why a file is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum SkipReason {
    /// Its name, or that of a folder above, begins with a dot.
    Hidden,
    /// Found in a folder, and its extension is none of [`EXTENSIONS`].
    UnknownExtension,
    /// Found in a folder, and of no bytes.
    Empty,
    /// A pipe, a socket or a device, or a link that leads nowhere.
    NotAFile,
    /// Already listed by this source.
    Repeated,
}

/// Lists the files of `source`.
///
/// # Errors
/// A path that does not exist, a glob that is malformed or matches no file, an empty file named
/// directly, a folder without a file of a known extension, a folder that cannot be read.
pub fn find_files(source: &SourceSpec) -> Result<Files, DatasetError> {
    let mut found = Finder::default();
    for path in &source.paths {
        found.add(path)?;
    }
    Ok(found.files)
}

#[derive(Default)]
struct Finder {
    files: Files,
    seen: HashSet<PathBuf>,
}

impl Finder {
    fn add(&mut self, given: &str) -> Result<(), DatasetError> {
        let path = Path::new(given);
        match path.metadata() {
            Ok(meta) if meta.is_dir() => self.add_folder(path),
            Ok(_) => self.add_named(path),
            Err(_) if given.contains(['*', '?', '[']) => self.add_glob(given),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(DatasetError::missing(path))
            }
            Err(error) => Err(DatasetError::io("read", path)(error)),
        }
    }

    /// A file that the user named: whatever is wrong with it is an error.
    fn add_named(&mut self, path: &Path) -> Result<(), DatasetError> {
        let meta = path.metadata().map_err(DatasetError::io("read", path))?;
        if !meta.is_file() {
            return Err(DatasetError::NotAFile { path: path.to_owned() });
        }
        if meta.len() == 0 {
            return Err(DatasetError::EmptyFile { path: path.to_owned() });
        }
        self.push(path.to_owned())
    }

    fn add_glob(&mut self, pattern: &str) -> Result<(), DatasetError> {
        let options = glob::MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: true,
        };
        let matches = glob::glob_with(pattern, options)
            .map_err(|source| DatasetError::BadGlob { pattern: pattern.to_owned(), source })?;
        let mut paths = Vec::new();
        for path in matches {
            let path = path.map_err(|error| {
                let path = error.path().to_owned();
                DatasetError::Io { action: "read", path, source: error.into() }
            })?;
            if !path.is_dir() {
                paths.push(path);
            }
        }
        if paths.is_empty() {
            return Err(DatasetError::NoMatch { pattern: pattern.to_owned() });
        }
        sort_by_bytes(&mut paths);
        paths.iter().try_for_each(|path| self.add_named(path))
    }

    fn add_folder(&mut self, folder: &Path) -> Result<(), DatasetError> {
        let before = (self.files.files.len(), self.files.skipped.len());
        let mut found = Vec::new();
        self.walk(folder, &mut HashSet::new(), &mut found)?;
        sort_by_bytes(&mut found);
        for path in found {
            let known = formats::known(&path);
            match path.metadata() {
                Ok(meta) if !meta.is_file() => self.skip(path, SkipReason::NotAFile),
                Err(_) => self.skip(path, SkipReason::NotAFile),
                Ok(_) if !known => self.skip(path, SkipReason::UnknownExtension),
                Ok(meta) if meta.len() == 0 => self.skip(path, SkipReason::Empty),
                Ok(_) => self.push(path)?,
            }
        }
        let repeated = self.files.skipped[before.1..].iter();
        let all_repeated = repeated.clone().any(|file| file.reason == SkipReason::Repeated);
        if self.files.files.len() == before.0 && !all_repeated {
            let n_skipped = self.files.skipped.len() - before.1;
            return Err(DatasetError::NoText { path: folder.to_owned(), n_skipped });
        }
        Ok(())
    }

    fn walk(
        &mut self,
        folder: &Path,
        visited: &mut HashSet<PathBuf>,
        found: &mut Vec<PathBuf>,
    ) -> Result<(), DatasetError> {
        let real = folder.canonicalize().map_err(DatasetError::io("read", folder))?;
        if !visited.insert(real) {
            return Ok(());
        }
        let mut entries = Vec::new();
        for entry in folder.read_dir().map_err(DatasetError::io("read", folder))? {
            entries.push(entry.map_err(DatasetError::io("read", folder))?.path());
        }
        sort_by_bytes(&mut entries);
        for path in entries {
            let name = path.file_name().unwrap_or_default();
            if name.as_encoded_bytes().starts_with(b".") {
                self.skip(path, SkipReason::Hidden);
            } else if path.is_dir() {
                self.walk(&path, visited, found)?;
            } else {
                found.push(path);
            }
        }
        Ok(())
    }

    fn push(&mut self, path: PathBuf) -> Result<(), DatasetError> {
        let real = path.canonicalize().map_err(DatasetError::io("read", &path))?;
        if self.seen.insert(real) {
            self.files.files.push(path);
        } else {
            self.skip(path, SkipReason::Repeated);
        }
        Ok(())
    }

    fn skip(&mut self, path: PathBuf, reason: SkipReason) {
        self.files.skipped.push(Skipped { path, reason });
    }
}

fn sort_by_bytes(paths: &mut [PathBuf]) {
    paths.sort_by(|a, b| a.as_os_str().as_encoded_bytes().cmp(b.as_os_str().as_encoded_bytes()));
}

impl std::fmt::Display for SkipReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SkipReason::Hidden => f.write_str("hidden (its name begins with a dot)"),
            SkipReason::UnknownExtension => {
                write!(f, "extension is none of {}", EXTENSIONS.join(" "))
            }
            SkipReason::Empty => f.write_str("empty"),
            SkipReason::NotAFile => f.write_str("not a regular file"),
            SkipReason::Repeated => f.write_str("already listed"),
        }
    }
}
