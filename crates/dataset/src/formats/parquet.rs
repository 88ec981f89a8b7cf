//! Parquet: one column of strings. Read column by column, a row group and 64 rows at a time.
//!
//! Parquet needs random access, so a `.parquet.gz` or `.parquet.zst` is decompressed into memory
//! first.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use parquet::basic::{ConvertedType, LogicalType, Repetition, Type as PhysicalType};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::input::Bytes;
use super::{Reader, nearest_help};
use crate::DatasetError;
use crate::documents::Place;

/// Rows decoded at a time.
const ROWS: usize = 64;

/// Reads one column of a parquet file.
pub(super) struct Parquet {
    path: PathBuf,
    column: String,
    file: Box<dyn FileReader>,
    /// The column's index among the leaves.
    leaf: usize,
    optional: bool,
    next_group: usize,
    group: Option<ColumnReaderImpl<ByteArrayType>>,
    /// Decoded and not yet given, in reverse.
    rows: Vec<Option<ByteArray>>,
    row: u64,
}

impl Parquet {
    pub(super) fn open(path: &Path, column: &str) -> Result<Self, DatasetError> {
        let mut bytes = Bytes::open(path)?;
        let file: Box<dyn FileReader> = if bytes.compressed() {
            let mut data = Vec::new();
            bytes.read_all(&mut data)?;
            let data = bytes::Bytes::from(data);
            Box::new(guard(path, 0, || SerializedFileReader::new(data))?)
        } else {
            let file = File::open(path).map_err(DatasetError::io("open", path))?;
            Box::new(guard(path, 0, || SerializedFileReader::new(file))?)
        };
        let (leaf, optional) = find_column(path, column, file.as_ref())?;
        Ok(Self {
            path: path.to_owned(),
            column: column.to_owned(),
            file,
            leaf,
            optional,
            next_group: 0,
            group: None,
            rows: Vec::new(),
            row: 0,
        })
    }

    /// Decodes the next rows; `false` at the end of the file.
    fn fill(&mut self) -> Result<bool, DatasetError> {
        loop {
            if let Some(group) = &mut self.group {
                let (mut levels, mut values) = (Vec::new(), Vec::new());
                let n = guard(&self.path, self.row + 1, || {
                    let defined = self.optional.then_some(&mut levels);
                    group.read_records(ROWS, defined, None, &mut values).map(|(n, _, _)| n)
                })?;
                if n > 0 {
                    let mut values = values.into_iter();
                    self.rows = match self.optional {
                        true => levels
                            .iter()
                            .map(|&l| if l > 0 { values.next() } else { None })
                            .collect(),
                        false => values.map(Some).collect(),
                    };
                    self.rows.reverse();
                    return Ok(true);
                }
                self.group = None;
            }
            if self.next_group == self.file.num_row_groups() {
                return Ok(false);
            }
            let reader = guard(&self.path, self.row + 1, || {
                self.file.get_row_group(self.next_group)?.get_column_reader(self.leaf)
            })?;
            let ColumnReader::ByteArrayColumnReader(reader) = reader else {
                let problem = "a row group has another type than the schema".to_owned();
                return Err(DatasetError::Parquet {
                    path: self.path.clone(),
                    row: self.row + 1,
                    problem,
                });
            };
            self.group = Some(reader);
            self.next_group += 1;
        }
    }

    fn text(&self, value: Option<ByteArray>) -> Result<String, DatasetError> {
        let wrong = |found: String| DatasetError::ParquetValue {
            path: self.path.clone(),
            row: self.row,
            column: self.column.clone(),
            found,
        };
        let value = value.ok_or_else(|| wrong("null".to_owned()))?;
        String::from_utf8(value.data().to_vec()).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            wrong(format!("not valid UTF-8 at its byte {at}"))
        })
    }
}

impl Reader for Parquet {
    fn read(&mut self) -> Result<Option<(String, Place)>, DatasetError> {
        if self.rows.is_empty() && !self.fill()? {
            return Ok(None);
        }
        let Some(value) = self.rows.pop() else { return Ok(None) };
        self.row += 1;
        Ok(Some((self.text(value)?, Place::Row(self.row))))
    }
}

/// The leaf index of a top-level string column, and whether it may be null.
fn find_column(
    path: &Path,
    column: &str,
    file: &dyn FileReader,
) -> Result<(usize, bool), DatasetError> {
    let schema = file.metadata().file_metadata().schema_descr();
    let leaf = schema.columns().iter().position(|c| c.path().parts()[0] == column);
    let Some(leaf) = leaf else {
        let names: Vec<String> =
            schema.root_schema().get_fields().iter().map(|f| f.name().to_owned()).collect();
        return Err(DatasetError::ParquetColumn {
            path: path.to_owned(),
            column: column.to_owned(),
            found: if names.is_empty() { "none".to_owned() } else { names.join(", ") },
            help: nearest_help("column", column, &names),
        });
    };
    let found = schema.column(leaf);
    let flat = found.path().parts().len() == 1
        && found.self_type().get_basic_info().repetition() != Repetition::REPEATED;
    let text = found.physical_type() == PhysicalType::BYTE_ARRAY
        && (matches!(found.converted_type(), ConvertedType::UTF8 | ConvertedType::NONE)
            || found.logical_type_ref() == Some(&LogicalType::String));
    if !flat || !text {
        return Err(DatasetError::ParquetType {
            path: path.to_owned(),
            column: column.to_owned(),
            found: if flat {
                format!("{} ({:?})", found.physical_type(), found.converted_type())
            } else {
                "nested or repeated".to_owned()
            },
        });
    }
    Ok((leaf, found.max_def_level() > 0))
}

/// Calls into the parquet crate. Its decoders check most of what they read, but on damaged files
/// some of them still panic, which must not end a program that was only given a bad file.
fn guard<T>(
    path: &Path,
    row: u64,
    call: impl FnOnce() -> Result<T, ParquetError>,
) -> Result<T, DatasetError> {
    let problem = match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "its pages are damaged".to_owned(),
    };
    Err(DatasetError::Parquet { path: path.to_owned(), row, problem })
}
