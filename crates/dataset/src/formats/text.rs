//! Plain text: the file is one document, or a separator divides it.

use super::Reader;
use super::input::{Bytes, Utf8};
use crate::DatasetError;
use crate::documents::Place;

/// Reads a text file; with a separator, one document at a time is held in memory.
pub(super) struct Text {
    input: Utf8,
    separator: Option<String>,
    /// Read and not yet given.
    text: String,
    /// Bytes of `text` in which no separator begins.
    searched: usize,
    line: u64,
    ended: bool,
    done: bool,
}

impl Text {
    pub(super) fn new(bytes: Bytes, separator: Option<String>) -> Self {
        let input = Utf8::new(bytes);
        Self { input, separator, text: String::new(), searched: 0, line: 1, ended: false, done: false }
    }

    /// Takes the document `..end` and the separator behind it out of the buffer.
    fn take(&mut self, end: usize, separator: usize) -> (String, Place) {
        let place = match self.separator {
            Some(_) => Place::Line(self.line),
            None => Place::Whole,
        };
        let rest = self.text.split_off(end + separator);
        self.line += self.text.bytes().filter(|&b| b == b'\n').count() as u64;
        let mut document = std::mem::replace(&mut self.text, rest);
        document.truncate(end);
        self.searched = 0;
        (document, place)
    }
}

impl Reader for Text {
    fn read(&mut self) -> Result<Option<(String, Place)>, DatasetError> {
        loop {
            if let Some(separator) = &self.separator {
                let n = separator.len();
                if let Some(at) = self.text[self.searched..].find(separator.as_str()) {
                    return Ok(Some(self.take(self.searched + at, n)));
                }
                // The last n - 1 bytes may be the beginning of a separator.
                let mut searched = self.text.len().saturating_sub(n - 1);
                while !self.text.is_char_boundary(searched) {
                    searched -= 1;
                }
                self.searched = searched;
            }
            if self.done {
                return Ok(None);
            }
            if self.ended {
                self.done = true;
                if self.separator.is_some() && self.text.is_empty() {
                    // A file that ends with a separator has no document behind it.
                    return Ok(None);
                }
                return Ok(Some(self.take(self.text.len(), 0)));
            }
            self.ended = !self.input.read(&mut self.text)?;
        }
    }
}
