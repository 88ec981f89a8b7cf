//! What the tests share.
#![allow(clippy::disallowed_methods)] // the one place where tests read the environment

use std::path::{Path, PathBuf};

use caravan_train::{Event, Observer, Row, RunConfig};

/// Settings of a run that takes a second.
pub(crate) fn config(dir: &Path, more: &[&str]) -> RunConfig {
    let text = dir.join("text.txt");
    let lines = (0..300).map(|i| {
        format!(
            "{i} llamas and {} camels walk {}.\n",
            i * 7 % 41,
            ["north", "south", "home"][i % 3]
        )
    });
    std::fs::write(&text, lines.collect::<String>()).unwrap();
    let base = [
        "steps=12",
        "seq_len=32",
        "global_batch=6",
        "micro_batch=2",
        "vocab_size=300",
        "n_layers=2",
        "d_model=32",
        "n_heads=4",
        "n_kv_heads=2",
        "head_dim=8",
        "d_ff=64",
        "eval_every=0",
        "checkpoint_every=0",
        "sample_tokens=0",
        "peak_lr=3e-3",
    ];
    let mut words: Vec<String> = base.iter().chain(more).map(|s| (*s).to_owned()).collect();
    words.push(format!("text={}", text.display()));
    words.push(format!("cache_dir={}", dir.join("cache").display()));
    RunConfig::default().with_overrides(&words).unwrap()
}

/// Remembers every row, and asks to stop after one of them.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub(crate) rows: Vec<Row>,
    pub(crate) stop_after: Option<u64>,
    pub(crate) stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl Observer for Rows {
    fn event(&mut self, event: &Event<'_>) {
        if let Event::Step { row, .. } = event {
            self.rows.push((*row).clone());
            if self.stop_after == Some(row.step) {
                self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        }
    }
}

/// The Python that checks are run against; says so loudly where there is none.
pub(crate) fn python(test: &str) -> Option<PathBuf> {
    let python = std::env::var_os("CARAVAN_PYTHON").map(PathBuf::from);
    if python.is_none() {
        eprintln!("NOT RUN: {test}: CARAVAN_PYTHON names no Python");
    }
    python
}
