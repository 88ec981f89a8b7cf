//! Plain text: the file is one document, or a separator divides it.

use super::Reader;
use super::input::{Bytes, Utf8};
use crate::DatasetError;
use crate::documents::Place;

/// Reads a text file; with a separator, one document and 1 MiB at a time is held in memory.
pub(super) struct Text {
    input: Utf8,
    separator: Option<String>,
    /// Read, and from `start` on not yet given.
    text: String,
    start: usize,
    /// No separator begins before this place, from `start` on.
    searched: usize,
    /// The line of `start`, from 1.
    line: u64,
    ended: bool,
    done: bool,
}

impl Text {
    pub(super) fn new(bytes: Bytes, separator: Option<String>) -> Self {
        Self {
            input: Utf8::new(bytes),
            separator,
            text: String::new(),
            start: 0,
            searched: 0,
            line: 1,
            ended: false,
            done: false,
        }
    }

    /// The next document that a separator ends, if all of it has been read.
    fn separated(&mut self) -> Option<(String, Place)> {
        let separator = self.separator.as_ref()?;
        let Some(at) = self.text[self.searched..].find(separator.as_str()) else {
            // The last bytes may be the beginning of a separator.
            let may_begin = self.text.len().saturating_sub(separator.len() - 1);
            self.searched = self.text.floor_char_boundary(may_begin).max(self.start);
            return None;
        };
        let (end, next) = (self.searched + at, self.searched + at + separator.len());
        let document = self.text[self.start..end].to_owned();
        let place = Place::Line(self.line);
        let passed = self.text.as_bytes()[self.start..next].iter();
        self.line += passed.filter(|&&b| b == b'\n').count() as u64;
        (self.start, self.searched) = (next, next);
        Some((document, place))
    }

    /// What is left at the end of the file.
    fn last(&mut self) -> Option<(String, Place)> {
        self.text.drain(..self.start);
        let text = std::mem::take(&mut self.text);
        match self.separator {
            // A file that ends with a separator has no document behind it.
            Some(_) if text.is_empty() => None,
            Some(_) => Some((text, Place::Line(self.line))),
            None => Some((text, Place::Whole)),
        }
    }
}

impl Reader for Text {
    fn read(&mut self) -> Result<Option<(String, Place)>, DatasetError> {
        while !self.done {
            if let Some(document) = self.separated() {
                return Ok(Some(document));
            }
            if self.ended {
                self.done = true;
                return Ok(self.last());
            }
            self.text.drain(..self.start);
            self.searched -= self.start;
            self.start = 0;
            self.ended = !self.input.read(&mut self.text)?;
        }
        Ok(None)
    }
}
