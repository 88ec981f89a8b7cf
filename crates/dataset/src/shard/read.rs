//! Opens a shard: maps it into memory and checks everything that costs no pass over tokens and
//! text.
#![allow(unsafe_code)] // Memory maps: each use says why it is sound.

use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::header::{Header, Layout};
use crate::DatasetError;

/// An open shard.
#[derive(Debug)]
pub(crate) struct Shard {
    path: PathBuf,
    file: File,
    map: Mmap,
    pub(crate) header: Header,
    pub(crate) layout: Layout,
}

/// Token ids as they lie in the file.
#[derive(Debug, Clone, Copy)]
pub(crate) enum TokenSlice<'a> {
    U16(&'a [u16]),
    U32(&'a [u32]),
}

impl Shard {
    /// Opens a shard and checks its header, the lengths, and that the ends of documents rise to the
    /// counts of the header and sources never fall and stay below `n_sources`. Token ids and text
    /// are checked where they are used.
    pub(crate) fn open(path: &Path, n_sources: usize) -> Result<Self, DatasetError> {
        let file = File::open(path).map_err(DatasetError::io("open", path))?;
        let len = file.metadata().map_err(DatasetError::io("read", path))?.len();
        if len == 0 {
            // An empty file cannot be mapped; its header is refused like any other that is too
            // short.
            Header::from_bytes(path, &[], 0)?;
        }
        // SAFETY: the map is read only. Shards are written beside and renamed, never changed in
        // place; a program that cuts a mapped file short makes the kernel stop the reader (SIGBUS),
        // as with every memory map.
        let map = unsafe { Mmap::map(&file) }.map_err(DatasetError::io("map", path))?;
        let (header, layout) = Header::from_bytes(path, &map, len)?;
        let shard = Self { path: path.to_owned(), file, map, header, layout };
        shard.check_ends(n_sources)?;
        Ok(shard)
    }

    /// The whole file.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    pub(crate) fn n_documents(&self) -> usize {
        self.header.n_documents as usize
    }

    /// Tokens `start..end` of the file.
    pub(crate) fn tokens(&self, start: u64, end: u64) -> TokenSlice<'_> {
        let bytes = self.section(self.layout.tokens);
        let (start, end) = (start as usize, end as usize);
        if self.header.token_bytes() == 2 {
            TokenSlice::U16(&bytemuck::cast_slice(bytes)[start..end])
        } else {
            TokenSlice::U32(&bytemuck::cast_slice(bytes)[start..end])
        }
    }

    /// Copies the tokens from `start` on into `into`.
    ///
    /// By positioned reads rather than through the map: pieces of a few hundred bytes at random
    /// places would pay a page fault each, which costs twice as much, and would leave the whole
    /// file in the resident memory of the process.
    pub(crate) fn read_tokens(&self, start: u64, into: &mut [u32]) -> Result<(), DatasetError> {
        let mut buffer = [0u16; 4096];
        let mut max = 0;
        if self.header.token_bytes() == 2 {
            for (i, part) in into.chunks_mut(buffer.len()).enumerate() {
                let ids = &mut buffer[..part.len()];
                self.read_at(2 * (start + 4096 * i as u64), bytemuck::cast_slice_mut(ids))?;
                max = max.max(TokenSlice::U16(ids).copy_to(part));
            }
        } else {
            self.read_at(4 * start, bytemuck::cast_slice_mut(into))?;
            for id in &mut *into {
                *id = u32::from_le(*id);
                max = max.max(*id);
            }
        }
        if u64::from(max) < self.header.vocab_size {
            return Ok(());
        }
        let bad = into.iter().position(|&id| u64::from(id) >= self.header.vocab_size);
        let at = start + bad.unwrap_or_default() as u64;
        let at = self.layout.tokens.0 + at * self.header.token_bytes();
        Err(self.wrong("a token id", at, format!("below {}", self.header.vocab_size), max))
    }

    /// Fills `bytes` from this offset in the section of tokens.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<(), DatasetError> {
        let offset = self.layout.tokens.0 + offset;
        #[cfg(unix)]
        std::os::unix::fs::FileExt::read_exact_at(&self.file, bytes, offset)
            .map_err(DatasetError::io("read", &self.path))?;
        #[cfg(not(unix))]
        bytes.copy_from_slice(&self.map[offset as usize..offset as usize + bytes.len()]);
        Ok(())
    }

    /// Where the tokens of each document end.
    pub(crate) fn document_ends(&self) -> impl Iterator<Item = u64> {
        self.numbers(self.layout.document_ends).iter().map(|&n| u64::from_le(n))
    }

    /// Tokens of document `i`, as a range in the file.
    pub(crate) fn document(&self, i: usize) -> (u64, u64) {
        range(self.numbers(self.layout.document_ends), i)
    }

    /// Bytes of document `i`.
    pub(crate) fn text(&self, i: usize) -> &[u8] {
        let (start, end) = range(self.numbers(self.layout.text_ends), i);
        &self.section(self.layout.text)[start as usize..end as usize]
    }

    /// Offset in the file of the text of document `i`.
    pub(crate) fn text_offset(&self, i: usize) -> u64 {
        self.layout.text.0 + range(self.numbers(self.layout.text_ends), i).0
    }

    /// Source of document `i`.
    pub(crate) fn source(&self, i: usize) -> u32 {
        let sources: &[u32] = bytemuck::cast_slice(self.section(self.layout.sources));
        u32::from_le(sources[i])
    }

    /// Documents before the first one of a source at or above `source`.
    pub(crate) fn documents_before_source(&self, source: u32) -> usize {
        let sources: &[u32] = bytemuck::cast_slice(self.section(self.layout.sources));
        sources.partition_point(|&s| u32::from_le(s) < source)
    }

    /// Lets the kernel take back the memory that reading has mapped in; the next read maps it again
    /// from the page cache.
    pub(crate) fn release(&self) {
        #[cfg(unix)]
        {
            // SAFETY: the map is a read-only, private view of a file that is never changed, so
            // pages that are dropped come back with the same bytes. Failure changes nothing but the
            // amount of memory in use.
            let _ = unsafe { self.map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
        }
    }

    /// An error about a place of this file.
    #[allow(clippy::needless_pass_by_value)] // So that callers may pass literals and sums.
    pub(crate) fn wrong(
        &self,
        field: &'static str,
        offset: u64,
        expected: impl ToString,
        found: impl ToString,
    ) -> DatasetError {
        DatasetError::Shard {
            path: self.path.clone(),
            field,
            offset,
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }

    // The header's check made sure that every section lies within the file, at a multiple of 64.
    fn section(&self, (start, len): (u64, u64)) -> &[u8] {
        &self.map[start as usize..(start + len) as usize]
    }

    fn numbers(&self, section: (u64, u64)) -> &[u64] {
        bytemuck::cast_slice(self.section(section))
    }

    fn check_ends(&self, n_sources: usize) -> Result<(), DatasetError> {
        // BOS and EOS; one byte of text.
        let Layout { document_ends, text_ends, sources, .. } = self.layout;
        self.rising("a document end", document_ends, 2, self.header.n_tokens)?;
        self.rising("a text end", text_ends, 1, self.header.n_text_bytes)?;
        let mut last = 0;
        for i in 0..self.n_documents() {
            let source = self.source(i);
            if source < last || source as usize >= n_sources {
                let at = sources.0 + 4 * i as u64;
                let expected = format!("{last} to {}", n_sources.saturating_sub(1));
                return Err(self.wrong("a source", at, expected, source));
            }
            last = source;
        }
        Ok(())
    }

    fn rising(
        &self,
        field: &'static str,
        section: (u64, u64),
        step: u64,
        total: u64,
    ) -> Result<(), DatasetError> {
        let mut last = 0u64;
        for (i, end) in self.numbers(section).iter().map(|&n| u64::from_le(n)).enumerate() {
            let least = last.saturating_add(step);
            if end < least || end > total {
                let at = section.0 + 8 * i as u64;
                return Err(self.wrong(field, at, format!("{least} to {total}"), end));
            }
            last = end;
        }
        if last != total {
            let at = section.0 + section.1 - 8;
            return Err(self.wrong(field, at, format!("{total} for the last document"), last));
        }
        Ok(())
    }
}

fn range(ends: &[u64], i: usize) -> (u64, u64) {
    let start = if i == 0 { 0 } else { u64::from_le(ends[i - 1]) };
    (start, u64::from_le(ends[i]))
}

impl TokenSlice<'_> {
    /// Widens the ids into `into`, which is as long; returns the largest one.
    pub(crate) fn copy_to(self, into: &mut [u32]) -> u32 {
        match self {
            TokenSlice::U16(ids) => {
                let mut max = 0;
                for (to, &id) in into.iter_mut().zip(ids) {
                    let id = u16::from_le(id);
                    max = max.max(id);
                    *to = u32::from(id);
                }
                u32::from(max)
            }
            TokenSlice::U32(ids) => {
                let mut max = 0;
                for (to, &id) in into.iter_mut().zip(ids) {
                    let id = u32::from_le(id);
                    max = max.max(id);
                    *to = id;
                }
                max
            }
        }
    }

    /// How many ids.
    pub(crate) fn len(self) -> usize {
        match self {
            TokenSlice::U16(ids) => ids.len(),
            TokenSlice::U32(ids) => ids.len(),
        }
    }

    /// The id at `i`.
    pub(crate) fn at(self, i: usize) -> u32 {
        match self {
            TokenSlice::U16(ids) => u32::from(u16::from_le(ids[i])),
            TokenSlice::U32(ids) => u32::from_le(ids[i]),
        }
    }

    /// The first id that is not below `limit`.
    pub(crate) fn first_above(self, limit: u64) -> Option<(usize, u32)> {
        (0..self.len()).map(|i| (i, self.at(i))).find(|&(_, id)| u64::from(id) >= limit)
    }
}
