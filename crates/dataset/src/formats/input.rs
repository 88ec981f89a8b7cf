//! The bytes of a file, decompressed, and the same as checked UTF-8.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use crate::DatasetError;

/// Bytes asked from the decoder at a time.
const CHUNK: usize = 1 << 20;

/// A zero byte among so many first ones makes a file binary (git's rule has 8,000).
const BINARY_PREFIX: u64 = 8192;

/// The decompressed bytes of a file, with the offset counted.
pub(super) struct Bytes {
    path: PathBuf,
    compression: Compression,
    stream: Box<dyn BufRead + Send>,
    offset: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    fn name(self) -> &'static str {
        match self {
            Compression::None => "plain",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        }
    }

    /// Several gzip members or zstd frames in a row are one text.
    fn decode(self, raw: impl BufRead + Send + 'static) -> io::Result<Box<dyn BufRead + Send>> {
        Ok(match self {
            Compression::None => Box::new(raw),
            Compression::Gzip => Box::new(BufReader::new(MultiGzDecoder::new(raw))),
            Compression::Zstd => {
                Box::new(BufReader::new(zstd::stream::read::Decoder::with_buffer(raw)?))
            }
        })
    }
}

impl Bytes {
    /// Opens a file; the first bytes decide the compression, and must agree with `.gz`, `.zst` and
    /// `.zstd`.
    pub(super) fn open(path: &Path) -> Result<Self, DatasetError> {
        let file = File::open(path).map_err(DatasetError::io("open", path))?;
        let mut raw = BufReader::with_capacity(1 << 16, file);
        let head = raw.fill_buf().map_err(DatasetError::io("read", path))?;
        let compression = match head {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            // A frame, or a skippable frame (RFC 8878, 3.1).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            _ => Compression::None,
        };
        let named = match path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()) {
            Some(e) if e == "gz" => Compression::Gzip,
            Some(e) if e == "zst" || e == "zstd" => Compression::Zstd,
            _ => compression,
        };
        if named != compression {
            let found =
                head.iter().take(4).map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ");
            return Err(DatasetError::NotCompressed {
                path: path.to_owned(),
                expected: named.name(),
                found,
            });
        }
        let stream = compression.decode(raw).map_err(DatasetError::io("read", path))?;
        Ok(Self { path: path.to_owned(), compression, stream, offset: 0 })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file is compressed.
    pub(super) fn compressed(&self) -> bool {
        self.compression != Compression::None
    }

    /// Appends up to 1 MiB; returns how many bytes, 0 at the end.
    fn read_chunk(&mut self, into: &mut Vec<u8>) -> Result<usize, DatasetError> {
        let before = into.len();
        let read = self.stream.by_ref().take(CHUNK as u64).read_to_end(into);
        self.count((into.len() - before) as u64, read)
    }

    /// Appends everything that is left.
    pub(super) fn read_all(&mut self, into: &mut Vec<u8>) -> Result<(), DatasetError> {
        while self.read_chunk(into)? > 0 {}
        Ok(())
    }

    /// Appends a line with its line end; returns how many bytes, 0 at the end.
    pub(super) fn read_line(&mut self, into: &mut Vec<u8>) -> Result<usize, DatasetError> {
        let before = into.len();
        let read = self.stream.read_until(b'\n', into);
        self.count((into.len() - before) as u64, read)
    }

    /// Adds `n`, the bytes that came, of an error too, to the offset.
    fn count(&mut self, n: u64, read: io::Result<usize>) -> Result<usize, DatasetError> {
        self.offset += n;
        match read {
            Ok(n) => Ok(n),
            Err(source) if self.compression == Compression::None => {
                Err(DatasetError::Io { action: "read", path: self.path.clone(), source })
            }
            Err(source) => Err(DatasetError::Damaged {
                path: self.path.clone(),
                compression: self.compression.name(),
                problem: match source.kind() {
                    io::ErrorKind::UnexpectedEof => "is cut short",
                    _ => "is damaged",
                },
                offset: self.offset,
                source,
            }),
        }
    }
}

/// Checks that bytes which begin at `offset` of a file are UTF-8.
pub(super) fn check_utf8<'a>(
    bytes: &'a [u8],
    offset: u64,
    path: &Path,
) -> Result<&'a str, DatasetError> {
    std::str::from_utf8(bytes).map_err(|error| {
        invalid(path, offset + error.valid_up_to() as u64, bytes[error.valid_up_to()])
    })
}

fn invalid(path: &Path, offset: u64, found: u8) -> DatasetError {
    let help = match (offset, found) {
        (0, 0xfe | 0xff) => "this looks like UTF-16; convert it with `iconv -f UTF-16 -t UTF-8`",
        _ => {
            "convert the file to UTF-8 (`iconv -f latin1 -t UTF-8` for old Western text), or fix the byte"
        }
    };
    DatasetError::InvalidUtf8 { path: path.to_owned(), offset, found, help }
}

/// Text that grows chunk by chunk; a character that a chunk cuts waits for the rest of it.
pub(super) struct Utf8 {
    bytes: Bytes,
    waiting: Vec<u8>,
}

impl Utf8 {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self { bytes, waiting: Vec::with_capacity(CHUNK + 4) }
    }

    pub(super) fn path(&self) -> &Path {
        self.bytes.path()
    }

    /// Appends up to 1 MiB; `false` at the end of the file.
    pub(super) fn read(&mut self, text: &mut String) -> Result<bool, DatasetError> {
        let start = self.bytes.offset - self.waiting.len() as u64;
        let n = self.bytes.read_chunk(&mut self.waiting)?;
        if start < BINARY_PREFIX
            && let Some(at) = self.waiting.iter().take(BINARY_PREFIX as usize).position(|&b| b == 0)
        {
            let path = self.path().to_owned();
            // UTF-16 with a byte order mark is told apart by its first byte.
            return Err(match self.waiting[0] {
                found @ (0xfe | 0xff) if start == 0 => invalid(&path, 0, found),
                _ => DatasetError::Binary { path, offset: start + at as u64 },
            });
        }
        let valid = match std::str::from_utf8(&self.waiting) {
            Ok(all) => {
                text.push_str(all);
                self.waiting.len()
            }
            Err(error) if error.error_len().is_none() && n > 0 => {
                let valid = error.valid_up_to();
                text.push_str(check_utf8(&self.waiting[..valid], start, self.bytes.path())?);
                valid
            }
            Err(error) => {
                let at = error.valid_up_to();
                let mut wrong = invalid(self.path(), start + at as u64, self.waiting[at]);
                if let (None, DatasetError::InvalidUtf8 { help, .. }) =
                    (error.error_len(), &mut wrong)
                {
                    *help = "the file ends inside a character, so it was cut short; get it again";
                }
                return Err(wrong);
            }
        };
        self.waiting.drain(..valid);
        Ok(n > 0)
    }
}
