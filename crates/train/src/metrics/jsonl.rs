//! `metrics.jsonl`: one JSON object per step.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::Row;
use crate::error::{Result, TrainError};

#[derive(Debug)]
pub(super) struct JsonLines {
    path: PathBuf,
    file: File,
}

impl JsonLines {
    pub(super) fn open(dir: &Path, last_step: u64) -> Result<Self> {
        let path = dir.join("metrics.jsonl");
        let rows = if path.exists() { read_rows(dir)? } else { Vec::new() };
        // Written beside and renamed, so that a kill here loses no row.
        let aside = dir.join("metrics.jsonl.tmp");
        let mut file = File::create(&aside).map_err(TrainError::io("writing", &aside))?;
        for row in rows.iter().filter(|r| r.step <= last_step) {
            write_line(&mut file, row).map_err(TrainError::io("writing", &aside))?;
        }
        file.sync_all().map_err(TrainError::io("writing", &aside))?;
        std::fs::rename(&aside, &path).map_err(TrainError::io("writing", &path))?;
        Ok(Self { path, file })
    }

    pub(super) fn write(&mut self, row: &Row) -> Result<()> {
        write_line(&mut self.file, row).map_err(TrainError::io("writing", &self.path))
    }
}

/// The rows of `dir/metrics.jsonl`. A last line that a kill cut short is left out: its step comes
/// after the last checkpoint and is done again.
///
/// # Errors
/// The file cannot be read, or a line before the last is not a row.
pub fn read_rows(dir: &Path) -> Result<Vec<Row>> {
    let path = dir.join("metrics.jsonl");
    let text = std::fs::read_to_string(&path).map_err(TrainError::io("reading", &path))?;
    let mut rows = Vec::new();
    let whole = text.ends_with('\n');
    let n = text.lines().count();
    for (i, line) in text.lines().enumerate() {
        match serde_json::from_str(line) {
            Ok(row) => rows.push(row),
            Err(_) if i + 1 == n && !whole => {}
            Err(e) => {
                return Err(TrainError::RunDir {
                    path,
                    problem: format!("line {} is not a row of metrics: {e}", i + 1),
                    help: "remove that line; training itself does not read this file".to_owned(),
                });
            }
        }
    }
    Ok(rows)
}

fn write_line(file: &mut File, row: &Row) -> std::io::Result<()> {
    let mut line = serde_json::to_string(row).map_err(std::io::Error::other)?;
    line.push('\n');
    file.write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_after_the_checkpoint_and_a_cut_line_go() {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = JsonLines::open(dir.path(), 0).unwrap();
        for step in 1..=5 {
            sink.write(&Row { step, train_loss: Some(1.0 / step as f64), ..Row::default() })
                .unwrap();
        }
        let path = dir.path().join("metrics.jsonl");
        let mut text = std::fs::read_to_string(&path).unwrap();
        text.push_str("{\"step\":6,\"tok");
        std::fs::write(&path, text).unwrap();
        drop(JsonLines::open(dir.path(), 3).unwrap());
        let rows = read_rows(dir.path()).unwrap();
        assert_eq!(rows.iter().map(|r| r.step).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(rows[2].train_loss, Some(1.0 / 3.0));
    }
}
