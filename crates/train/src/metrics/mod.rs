//! Where the numbers of a run go: JSON lines, TensorBoard events, an SVG.
//!
//! A new sink is a file here and a call in [`Metrics::write`].

mod curve;
mod jsonl;
mod tensorboard;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use curve::draw_loss;
pub use jsonl::read_rows;

use crate::error::Result;

/// What is known after a step. A field is absent where it was not measured at that step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Updates done, from 1.
    pub step: u64,
    /// The stage of the curriculum, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Target tokens trained on so far.
    pub tokens: u64,
    /// Mean negative log-likelihood of the step's targets, nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_loss: Option<f64>,
    /// Mean negative log-likelihood of the validation tokens, nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
    /// Validation bits per byte of source text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_bits_per_byte: Option<f64>,
    /// Learning rate of the step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Global gradient norm before clipping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<f64>,
    /// Target tokens per second of the step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_sec: Option<f64>,
    /// Largest resident size so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_rss_bytes: Option<u64>,
    /// What the first rank sent in the step, by axis of the mesh.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub communication: BTreeMap<String, Communication>,
    /// Seconds of training, earlier sessions of the run included.
    pub elapsed_secs: f64,
}

/// Communication on one axis in one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Communication {
    /// Bytes sent, by the convention of `caravan_collective::Traffic`.
    pub bytes: u64,
    /// Seconds inside the operations, waiting for other ranks included.
    pub secs: f64,
}

/// The open sinks of a run.
#[derive(Debug)]
pub struct Metrics {
    jsonl: jsonl::JsonLines,
    events: tensorboard::Events,
}

impl Metrics {
    /// Opens the sinks in `dir`. Rows after `last_step` are cut off: they belong to updates that a
    /// killed run did after its last checkpoint and that will be done again.
    ///
    /// # Errors
    /// The files cannot be written or read.
    pub fn open(dir: &Path, last_step: u64) -> Result<Self> {
        Ok(Self {
            jsonl: jsonl::JsonLines::open(dir, last_step)?,
            events: tensorboard::Events::create(dir, last_step)?,
        })
    }

    /// Writes a row everywhere.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&mut self, row: &Row) -> Result<()> {
        self.jsonl.write(row)?;
        self.events.write(row)
    }
}
