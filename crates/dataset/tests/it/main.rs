//! Tests of the crate from outside.
// Helpers of tests fail by panicking.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)]

/// Every message that bad input gives.
mod bad_input;
/// Shards: determinism, order, atomicity, reuse.
mod building;
/// Builds that are killed, or run out of space.
mod crashing;
/// Damaged and hostile files: any byte, any header field.
mod hostile;
/// Sequences: every token once, documents apart, random access, mixing.
mod loading;
/// Text, JSON lines, parquet; gzip and zstd; folders and globs.
mod reading;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use caravan_dataset::{BuildConfig, ShardSet, SourceSpec, build};
use caravan_tokenizer::ByteTokenizer;

/// A temporary folder.
struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Writes a file, and the folders above it.
    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
        self.text(name)
    }

    /// A JSON lines file of these texts.
    fn jsonl<T: AsRef<str>>(&self, name: &str, texts: &[T]) -> SourceSpec {
        let line = |t: &T| serde_json::json!({ "text": t.as_ref() }).to_string() + "\n";
        SourceSpec::of([self.write(name, texts.iter().map(line).collect::<String>())])
    }
}

fn config(sources: Vec<SourceSpec>, val_fraction: f64) -> BuildConfig {
    BuildConfig { sources, val_fraction, ..BuildConfig::default() }
}

/// Builds a set with the byte tokenizer and opens it.
fn built(config: &BuildConfig, out: &Path) -> Arc<ShardSet> {
    build(config, &ByteTokenizer::new(), out, &mut |_| {}).unwrap();
    Arc::new(ShardSet::open(out).unwrap())
}
