//! The header of a file: metadata and the list of tensors.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::GgufError;
use crate::quant::Quant;
use crate::value::{Array, Value};

/// Everything of a file but the tensors' data.
#[derive(Clone, Debug)]
pub struct Header {
    path: PathBuf,
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, TensorInfo>,
}

/// A tensor of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Sizes, slowest dim first, as everywhere but in the file.
    pub shape: Vec<usize>,
    /// How its numbers are stored.
    pub quant: Quant,
    /// Where its bytes lie in the file.
    pub range: Range<usize>,
}

/// `general.alignment` where a file does not say.
const ALIGNMENT: u64 = 32;
/// More dims than any tensor of ggml has.
const MAX_DIMS: u32 = 4;

impl Header {
    /// Reads the header of a file.
    ///
    /// # Errors
    /// The file is unreadable, no GGUF, of another version or byte order, or a length in it does not fit the file.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let io = |source| GgufError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        Source { path, from: BufReader::with_capacity(1 << 16, file), at: 0, size }.header()
    }

    /// Whether a file begins as GGUF does; false also for one that cannot be read.
    pub fn is_gguf(path: &Path) -> bool {
        let mut magic = [0; 4];
        let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
        read.is_ok() && &magic == b"GGUF"
    }

    /// The file it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All metadata.
    pub fn metadata(&self) -> &BTreeMap<String, Value> {
        &self.metadata
    }

    /// All tensors.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// A text, if the key is there.
    ///
    /// # Errors
    /// It is something else; so do the other readers of keys.
    pub fn string(&self, key: &str) -> Result<Option<&str>, GgufError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(key, "a text")),
        }
    }

    /// A whole number that is not negative, if the key is there.
    ///
    /// # Errors
    /// As [`string`](Self::string).
    pub fn size(&self, key: &str) -> Result<Option<usize>, GgufError> {
        let number = match self.metadata.get(key) {
            None => return Ok(None),
            Some(Value::Unsigned(n)) => usize::try_from(*n).ok(),
            Some(Value::Signed(n)) => usize::try_from(*n).ok(),
            Some(_) => None,
        };
        number.map(Some).ok_or_else(|| self.wrong(key, "a whole number"))
    }

    /// A number, if the key is there.
    ///
    /// # Errors
    /// As [`string`](Self::string).
    pub fn number(&self, key: &str) -> Result<Option<f64>, GgufError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Float(x)) => Ok(Some(*x)),
            Some(Value::Unsigned(n)) => Ok(Some(*n as f64)),
            Some(Value::Signed(n)) => Ok(Some(*n as f64)),
            Some(_) => Err(self.wrong(key, "a number")),
        }
    }

    /// True or false, if the key is there.
    ///
    /// # Errors
    /// As [`string`](Self::string).
    pub fn flag(&self, key: &str) -> Result<Option<bool>, GgufError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }

    /// The error for a key that is missing or has another value.
    pub fn wrong(&self, key: &str, expected: &str) -> GgufError {
        self.wrong_with(key, expected, "fetch the file again, or convert the model again")
    }

    /// As [`wrong`](Self::wrong), with what to do.
    pub fn wrong_with(&self, key: &str, expected: &str, help: &str) -> GgufError {
        GgufError::Key {
            path: self.path.clone(),
            key: key.to_owned(),
            found: self.metadata.get(key).map_or("absent".to_owned(), Value::describe),
            expected: expected.to_owned(),
            help: help.to_owned(),
        }
    }
}

/// A file that is read from its beginning.
struct Source<'a, R> {
    path: &'a Path,
    from: R,
    at: u64,
    size: u64,
}

impl<R: Read> Source<'_, R> {
    fn header(mut self) -> Result<Header, GgufError> {
        let magic = self.array::<4>("the magic number")?;
        let version = u32::from_le_bytes(self.array("the version")?);
        let other =
            |found: String, help| GgufError::NotGguf { path: self.path.to_owned(), found, help };
        if &magic != b"GGUF" {
            return Err(other(
                "it does not begin with `GGUF`".to_owned(),
                "give a file that ends in .gguf",
            ));
        }
        match version {
            2 | 3 => {}
            _ if matches!(version.swap_bytes(), 2 | 3) => {
                return Err(other(
                    "it is big-endian".to_owned(),
                    "take the little-endian file of the model",
                ));
            }
            _ => {
                return Err(other(
                    format!("it has version {version}"),
                    "versions 2 and 3 are read: convert the model again with a recent llama.cpp",
                ));
            }
        }
        let n_tensors = self.count("the number of tensors", 8 + 4 + 8 + 4 + 8)?;
        let n_keys = self.count("the number of metadata keys", 8 + 4 + 1)?;
        let mut metadata = BTreeMap::new();
        for _ in 0..n_keys {
            let start = self.at;
            let key = self.text("a metadata key")?;
            let kind = self.u32("the type of a metadata value")?;
            let value = self.value(kind)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(self.damaged(start, format!("the metadata key `{key}` comes twice")));
            }
        }
        let mut infos = Vec::with_capacity(n_tensors);
        for _ in 0..n_tensors {
            infos.push((self.at, self.tensor()?));
        }
        let mut header = Header { path: self.path.to_owned(), metadata, tensors: BTreeMap::new() };
        let alignment = header.size("general.alignment")?.map_or(ALIGNMENT, |a| a as u64);
        if alignment == 0 || !alignment.is_multiple_of(8) {
            return Err(header.wrong("general.alignment", "a multiple of 8"));
        }
        let data = self.at.next_multiple_of(alignment);
        for (at, (name, shape, quant, offset)) in infos {
            let info = self.placed(at, &name, shape, quant, data, offset)?;
            if header.tensors.insert(name.clone(), info).is_some() {
                return Err(self.damaged(at, format!("the tensor `{name}` comes twice")));
            }
        }
        Ok(header)
    }

    /// The tensor with its bytes inside the file.
    fn placed(
        &self,
        at: u64,
        name: &str,
        shape: Vec<usize>,
        quant: Quant,
        data: u64,
        offset: u64,
    ) -> Result<TensorInfo, GgufError> {
        let row = shape.last().copied().unwrap_or(1);
        let elements = shape.iter().try_fold(1usize, |n, dim| n.checked_mul(*dim));
        let Some(elements) = elements.filter(|_| row.is_multiple_of(quant.block_len())) else {
            return Err(self.damaged(
                at,
                format!("the tensor `{name}` has the shape {shape:?}, which {quant} cannot store"),
            ));
        };
        let bytes = (elements / quant.block_len()).checked_mul(quant.block_bytes());
        let start = data.checked_add(offset);
        let end = start.zip(bytes).and_then(|(start, bytes)| start.checked_add(bytes as u64));
        match (start, end) {
            (Some(start), Some(end)) if end <= self.size => {
                Ok(TensorInfo { shape, quant, range: start as usize..end as usize })
            }
            _ => Err(self.damaged(
                at,
                format!(
                    "the tensor `{name}` reaches past the end of the file, which has {} bytes",
                    self.size
                ),
            )),
        }
    }

    fn tensor(&mut self) -> Result<(String, Vec<usize>, Quant, u64), GgufError> {
        let start = self.at;
        let name = self.text("the name of a tensor")?;
        let n_dims = self.u32("the number of dims")?;
        if n_dims > MAX_DIMS {
            return Err(self.damaged(start, format!("the tensor `{name}` has {n_dims} dims")));
        }
        let mut shape = Vec::new();
        for _ in 0..n_dims {
            let dim = self.u64("a dim")?;
            let dim = usize::try_from(dim).ok().filter(|dim| *dim < 1 << 40);
            shape.push(
                dim.ok_or_else(|| self.damaged(start, format!("a dim of `{name}` is too large")))?,
            );
        }
        shape.reverse();
        let code = self.u32("the type of a tensor")?;
        let quant = Quant::from_code(code).ok_or_else(|| GgufError::Type {
            path: self.path.to_owned(),
            name: name.clone(),
            found: Quant::name_of(code),
        })?;
        Ok((name, shape, quant, self.u64("the place of a tensor")?))
    }

    fn value(&mut self, kind: u32) -> Result<Value, GgufError> {
        const WHAT: &str = "a metadata value";
        Ok(match kind {
            0 | 2 | 4 | 10 => Value::Unsigned(self.unsigned(kind)?),
            1 | 3 | 5 | 11 => Value::Signed(self.signed(kind)?),
            6 | 12 => Value::Float(self.float(kind)?),
            7 => Value::Bool(self.bool()?),
            8 => Value::String(self.text(WHAT)?),
            9 => {
                let start = self.at;
                let kind = self.u32("the type of an array")?;
                let least = match kind {
                    0 | 1 | 7 => 1,
                    2 | 3 => 2,
                    4..=6 => 4,
                    8 | 10..=12 => 8,
                    _ => {
                        return Err(
                            self.damaged(start, format!("an array of elements of type {kind}"))
                        );
                    }
                };
                let n = self.count("the length of an array", least)?;
                Value::Array(match kind {
                    0 | 2 | 4 | 10 => Array::Unsigned(
                        (0..n).map(|_| self.unsigned(kind)).collect::<Result<_, _>>()?,
                    ),
                    1 | 3 | 5 | 11 => {
                        Array::Signed((0..n).map(|_| self.signed(kind)).collect::<Result<_, _>>()?)
                    }
                    6 | 12 => {
                        Array::Float((0..n).map(|_| self.float(kind)).collect::<Result<_, _>>()?)
                    }
                    7 => Array::Bool((0..n).map(|_| self.bool()).collect::<Result<_, _>>()?),
                    _ => Array::String((0..n).map(|_| self.bytes(WHAT)).collect::<Result<_, _>>()?),
                })
            }
            _ => return Err(self.damaged(self.at, format!("a metadata value of the type {kind}"))),
        })
    }

    fn unsigned(&mut self, kind: u32) -> Result<u64, GgufError> {
        const WHAT: &str = "an integer";
        Ok(match kind {
            0 => u64::from(self.array::<1>(WHAT)?[0]),
            2 => u64::from(u16::from_le_bytes(self.array(WHAT)?)),
            4 => u64::from(self.u32(WHAT)?),
            _ => self.u64(WHAT)?,
        })
    }

    fn signed(&mut self, kind: u32) -> Result<i64, GgufError> {
        const WHAT: &str = "an integer";
        Ok(match kind {
            1 => i64::from(i8::from_le_bytes(self.array(WHAT)?)),
            3 => i64::from(i16::from_le_bytes(self.array(WHAT)?)),
            5 => i64::from(i32::from_le_bytes(self.array(WHAT)?)),
            _ => i64::from_le_bytes(self.array(WHAT)?),
        })
    }

    fn float(&mut self, kind: u32) -> Result<f64, GgufError> {
        const WHAT: &str = "a float";
        Ok(match kind {
            6 => f64::from(f32::from_le_bytes(self.array(WHAT)?)),
            _ => f64::from_le_bytes(self.array(WHAT)?),
        })
    }

    fn bool(&mut self) -> Result<bool, GgufError> {
        match self.array::<1>("a boolean")? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(self.damaged(self.at - 1, format!("a boolean is {other}"))),
        }
    }

    fn text(&mut self, what: &str) -> Result<String, GgufError> {
        let start = self.at;
        String::from_utf8(self.bytes(what)?)
            .map_err(|_| self.damaged(start, format!("{what} is no UTF-8")))
    }

    fn bytes(&mut self, what: &str) -> Result<Vec<u8>, GgufError> {
        let n = self.count(what, 1)?;
        let mut bytes = vec![0; n];
        self.fill(&mut bytes, what)?;
        Ok(bytes)
    }

    /// A number of things of at least `least` bytes each, which must fit into what is left of the file.
    fn count(&mut self, what: &str, least: u64) -> Result<usize, GgufError> {
        let start = self.at;
        let n = self.u64(what)?;
        let fits =
            n.checked_mul(least).is_some_and(|bytes| bytes <= self.size.saturating_sub(self.at));
        usize::try_from(n).ok().filter(|_| fits).ok_or_else(|| {
            self.damaged(
                start,
                format!(
                    "{what} has the length {n}, more than the {} bytes of the file hold",
                    self.size
                ),
            )
        })
    }

    fn u32(&mut self, what: &str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], GgufError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes, what)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8], what: &str) -> Result<(), GgufError> {
        match self.from.read_exact(bytes) {
            Ok(()) => {
                self.at += bytes.len() as u64;
                Ok(())
            }
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(self.damaged(self.at, format!("the file ends inside {what}")))
            }
            Err(source) => Err(GgufError::Io { path: self.path.to_owned(), source }),
        }
    }

    fn damaged(&self, offset: u64, problem: String) -> GgufError {
        GgufError::Damaged { path: self.path.to_owned(), offset, problem }
    }
}
