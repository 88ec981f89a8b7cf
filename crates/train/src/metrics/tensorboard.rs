//! TensorBoard event files: TFRecord frames around `tensorflow.Event` messages.
//!
//! # Reference
//! Frame: `tensorflow/core/lib/io/record_writer.h` (length, masked CRC-32C of the length, data,
//! masked CRC-32C of the data). Fields: `tensorflow/core/util/event.proto` (1 `wall_time` double,
//! 2 `step` int64, 3 `file_version` string, 5 `summary`, 7 `session_log`) and `summary.proto`
//! (`value` 1, in it `tag` 1, `simple_value` 2 float). Five scalar fields do not warrant a
//! protobuf compiler.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::Row;
use crate::error::{Result, TrainError};

#[derive(Debug)]
pub(super) struct Events {
    path: PathBuf,
    file: File,
}

impl Events {
    /// A new file for this session. Readers order files by name, so the time comes first; the
    /// session log tells them that steps after `last_step` of older files are void.
    pub(super) fn create(dir: &Path, last_step: u64) -> Result<Self> {
        let now = wall_time();
        let path = dir.join(format!(
            "events.out.tfevents.{:010}.{}.caravan",
            now as u64,
            std::process::id()
        ));
        let file = File::create(&path).map_err(TrainError::io("writing", &path))?;
        let mut events = Self { path, file };
        let mut version = event_head(now, 0);
        put_bytes(&mut version, 3, b"brain.Event:2");
        events.frame(&version)?;
        if last_step > 0 {
            let mut start = event_head(now, last_step + 1);
            let mut log = Vec::new();
            put_key(&mut log, 1, 0);
            put_varint(&mut log, 1); // SessionLog.START
            put_bytes(&mut start, 7, &log);
            events.frame(&start)?;
        }
        Ok(events)
    }

    pub(super) fn write(&mut self, row: &Row) -> Result<()> {
        let scalars = [
            ("loss/train", row.train_loss),
            ("loss/validation", row.val_loss),
            ("bits_per_byte/validation", row.val_bits_per_byte),
            ("optim/lr", row.lr),
            ("optim/grad_norm", row.grad_norm),
            ("speed/tokens_per_sec", row.tokens_per_sec),
        ];
        let mut summary = Vec::new();
        for (tag, value) in scalars {
            let Some(value) = value else { continue };
            let mut scalar = Vec::new();
            put_bytes(&mut scalar, 1, tag.as_bytes());
            put_key(&mut scalar, 2, 5);
            scalar.extend_from_slice(&(value as f32).to_le_bytes());
            put_bytes(&mut summary, 1, &scalar);
        }
        let mut event = event_head(wall_time(), row.step);
        put_bytes(&mut event, 5, &summary);
        self.frame(&event)
    }

    fn frame(&mut self, data: &[u8]) -> Result<()> {
        let length = (data.len() as u64).to_le_bytes();
        let mut frame = Vec::with_capacity(data.len() + 16);
        frame.extend_from_slice(&length);
        frame.extend_from_slice(&masked_crc(&length).to_le_bytes());
        frame.extend_from_slice(data);
        frame.extend_from_slice(&masked_crc(data).to_le_bytes());
        self.file.write_all(&frame).map_err(TrainError::io("writing", &self.path))
    }
}

fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

fn event_head(time: f64, step: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_key(&mut out, 1, 1);
    out.extend_from_slice(&time.to_le_bytes());
    put_key(&mut out, 2, 0);
    put_varint(&mut out, step);
    out
}

fn put_key(out: &mut Vec<u8>, field: u64, wire: u64) {
    put_varint(out, field << 3 | wire);
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_key(out, field, 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_the_format() {
        let mut out = Vec::new();
        put_varint(&mut out, 300);
        assert_eq!(out, [0xac, 0x02]);
        // CRC-32C check value of "123456789" is e3069283 (RFC 3720, B.4 uses the same polynomial).
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(
            masked_crc(b"123456789"),
            0xe306_9283u32.rotate_right(15).wrapping_add(0xa282_ead8)
        );
    }
}
