//! A document, where it came from, and the stream of all documents of a source.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::formats::{self, Reader};
use crate::{DatasetError, Files, SourceSpec, find_files};

/// A text that stands by itself: nothing is predicted across its ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The text, byte for byte as in the source: line ends (also CRLF) and a byte order mark are
    /// kept.
    pub text: String,
    /// Index of the source.
    pub source: usize,
    /// Where the text begins.
    pub origin: Origin,
}

/// A place in a file. `Display` gives `path`, `path:line` or `path: row n`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The file.
    pub path: Arc<PathBuf>,
    /// Where in it.
    pub place: Place,
}

/// Where in a file a document lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The file is the document.
    Whole,
    /// It begins in this line (from 1) of a text file, or is this line of a JSON lines file.
    Line(u64),
    /// It is this row (from 1) of a parquet file.
    Row(u64),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place::Whole => write!(f, "{}", self.path.display()),
            Place::Line(line) => write!(f, "{}:{line}", self.path.display()),
            Place::Row(row) => write!(f, "{}: row {row}", self.path.display()),
        }
    }
}

/// The documents of a source, in order, empty ones too. Holds one document (or one JSON line, or 64
/// parquet rows) in memory.
///
/// # Errors
/// Those of [`find_files`] at once; those of the readers as items. After an error the stream ends.
pub fn read_documents(
    source: &SourceSpec,
    index: usize,
) -> Result<Box<dyn Iterator<Item = Result<Document, DatasetError>> + Send>, DatasetError> {
    source.validate(index)?;
    Ok(Box::new(documents_of(source, index, find_files(source)?)))
}

/// [`read_documents`] of files that were found before.
pub(crate) fn documents_of(source: &SourceSpec, index: usize, files: Files) -> Documents {
    Documents {
        spec: source.clone(),
        index,
        files: files.files.into_iter(),
        reader: None,
        failed: false,
    }
}

/// The stream behind [`read_documents`].
pub(crate) struct Documents {
    spec: SourceSpec,
    index: usize,
    files: std::vec::IntoIter<PathBuf>,
    reader: Option<(Arc<PathBuf>, Box<dyn Reader>)>,
    failed: bool,
}

impl Documents {
    fn advance(&mut self) -> Result<Option<Document>, DatasetError> {
        loop {
            if let Some((path, reader)) = &mut self.reader {
                if let Some((text, place)) = reader.read()? {
                    let origin = Origin { path: path.clone(), place };
                    return Ok(Some(Document { text, source: self.index, origin }));
                }
                self.reader = None;
            }
            let Some(path) = self.files.next() else { return Ok(None) };
            let reader = formats::open(&path, &self.spec)?;
            self.reader = Some((Arc::new(path), reader));
        }
    }
}

impl Iterator for Documents {
    type Item = Result<Document, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let item = self.advance().transpose();
        self.failed = matches!(item, Some(Err(_)));
        item
    }
}
