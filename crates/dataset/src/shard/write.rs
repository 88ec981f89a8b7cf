//! Writes one shard. Tokens go straight into the file, the text into a second one beside it that is
//! appended at the end, so that memory holds only 20 bytes per document.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use blake3::Hasher;

use super::header::{Header, LEN};
use crate::{DatasetError, DocumentCounts};

/// A shard that is being written.
#[derive(Debug)]
pub(crate) struct ShardWriter {
    path: PathBuf,
    file: BufWriter<File>,
    text_path: PathBuf,
    text: BufWriter<File>,
    /// Of the payload, as far as it is written.
    hasher: Hasher,
    header: Header,
    document_ends: Vec<u64>,
    text_ends: Vec<u64>,
    sources: Vec<u32>,
    buffer: Vec<u8>,
}

impl ShardWriter {
    /// Begins a shard at `path`; `header` gives everything but the counts and the hash.
    pub(crate) fn create(path: &Path, header: &Header) -> Result<Self, DatasetError> {
        let text_path = path.with_extension("text");
        let mut file = create(path)?;
        file.write_all(&[0; LEN]).map_err(DatasetError::io("write", path))?;
        let header = Header { n_documents: 0, n_tokens: 0, n_text_bytes: 0, ..header.clone() };
        Ok(Self {
            file,
            text: create(&text_path)?,
            path: path.to_owned(),
            text_path,
            hasher: Hasher::new(),
            header,
            document_ends: Vec::new(),
            text_ends: Vec::new(),
            sources: Vec::new(),
            buffer: Vec::new(),
        })
    }

    /// Appends a document; BOS and EOS are added around `ids`, which are all below the vocabulary
    /// size.
    pub(crate) fn push(
        &mut self,
        ids: &[u32],
        text: &str,
        source: u32,
    ) -> Result<(), DatasetError> {
        self.buffer.clear();
        let ids = [self.header.bos].into_iter().chain(ids.iter().copied()).chain([self.header.eos]);
        let before = self.buffer.len();
        if self.header.token_bytes() == 2 {
            ids.for_each(|id| self.buffer.extend_from_slice(&(id as u16).to_le_bytes()));
        } else {
            ids.for_each(|id| self.buffer.extend_from_slice(&id.to_le_bytes()));
        }
        let n_tokens = (self.buffer.len() - before) as u64 / self.header.token_bytes();
        self.hasher.update(&self.buffer);
        self.file.write_all(&self.buffer).map_err(DatasetError::io("write", &self.path))?;
        self.text.write_all(text.as_bytes()).map_err(DatasetError::io("write", &self.text_path))?;
        self.header.n_documents += 1;
        self.header.n_tokens += n_tokens;
        self.header.n_text_bytes += text.len() as u64;
        self.document_ends.push(self.header.n_tokens);
        self.text_ends.push(self.header.n_text_bytes);
        self.sources.push(source);
        Ok(())
    }

    /// Bytes of tokens so far.
    pub(crate) fn token_bytes(&self) -> u64 {
        self.header.n_tokens * self.header.token_bytes()
    }

    /// Writes the other sections and the header, and makes the file durable.
    pub(crate) fn finish(mut self) -> Result<(PathBuf, DocumentCounts, u64), DatasetError> {
        let layout = self.header.layout().ok_or_else(|| {
            let source = std::io::Error::from(std::io::ErrorKind::FileTooLarge);
            DatasetError::Io { action: "write", path: self.path.clone(), source }
        })?;
        let ends = std::mem::take(&mut self.document_ends);
        self.section(layout.document_ends.0, ends.iter().flat_map(|n| n.to_le_bytes()))?;
        let ends = std::mem::take(&mut self.text_ends);
        self.section(layout.text_ends.0, ends.iter().flat_map(|n| n.to_le_bytes()))?;
        let sources = std::mem::take(&mut self.sources);
        self.section(layout.sources.0, sources.iter().flat_map(|n| n.to_le_bytes()))?;
        self.section(layout.text.0, [])?;
        self.append_text()?;
        self.header.payload_hash = *self.hasher.finalize().as_bytes();

        let failed = || DatasetError::io("write", &self.path);
        self.file.seek(SeekFrom::Start(0)).map_err(failed())?;
        self.file.write_all(&self.header.to_bytes(&layout)).map_err(failed())?;
        self.file.flush().map_err(failed())?;
        self.file.get_ref().sync_all().map_err(failed())?;
        let counts = DocumentCounts {
            documents: self.header.n_documents,
            tokens: self.header.n_tokens,
            text_bytes: self.header.n_text_bytes,
        };
        Ok((self.path, counts, layout.file_len))
    }

    /// Zeros up to `start`, then the bytes.
    fn section(
        &mut self,
        start: u64,
        bytes: impl IntoIterator<Item = u8>,
    ) -> Result<(), DatasetError> {
        let at = self.file.stream_position().map_err(DatasetError::io("write", &self.path))?;
        self.buffer.clear();
        self.buffer.resize((start - at) as usize, 0);
        self.buffer.extend(bytes);
        self.hasher.update(&self.buffer);
        self.file.write_all(&self.buffer).map_err(DatasetError::io("write", &self.path))
    }

    fn append_text(&mut self) -> Result<(), DatasetError> {
        let failed = || DatasetError::io("read", &self.text_path);
        self.text.seek(SeekFrom::Start(0)).map_err(failed())?;
        let text = self.text.get_mut();
        self.buffer.resize(1 << 20, 0);
        loop {
            let n = text.read(&mut self.buffer).map_err(failed())?;
            if n == 0 {
                break;
            }
            self.hasher.update(&self.buffer[..n]);
            self.file
                .write_all(&self.buffer[..n])
                .map_err(DatasetError::io("write", &self.path))?;
        }
        fs::remove_file(&self.text_path).map_err(DatasetError::io("remove", &self.text_path))
    }
}

fn create(path: &Path) -> Result<BufWriter<File>, DatasetError> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path);
    Ok(BufWriter::with_capacity(1 << 18, file.map_err(DatasetError::io("create", path))?))
}
