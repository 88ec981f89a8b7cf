//! How much memory a run will take, from the shapes alone.
//!
//! `4 bytes x (weights + 2 moments + gradients x (1 + pending blocks of the exact sum))`, the
//! activations that one micro-batch keeps until its backward pass, and a base for the program and
//! its threads. Checked against the measured peak in `crates/cli/tests/it/memory.rs`. On two cores without
//! AMX 22 configurations of 1 to 97 million parameters, up to 2,048 positions, with and without recomputing,
//! lay within 10%; the peak itself varies by about as much from run to run.

use caravan_model::LlamaConfig;

use crate::config::RunConfig;
use crate::error::{Result, TrainError};

/// A thread of the pool: its own heap, packed panels of matrices, scratch of attention. Measured, like the rest of the base.
const THREAD: u64 = 16 << 20;

/// Predicted bytes by part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Parameters.
    pub weights: u64,
    /// AdamW's two moments.
    pub moments: u64,
    /// The gradients of a micro-batch and the pending blocks of the sum.
    pub gradients: u64,
    /// What a micro-batch keeps for its backward pass, and the largest working set beside it.
    pub activations: u64,
    /// Program, thread stacks, tokenizer, mapped shards.
    pub base: u64,
}

impl Memory {
    /// Predicts for `n_micro_batches` per update.
    pub fn predict(model: &LlamaConfig, config: &RunConfig, n_micro_batches: usize) -> Self {
        let n = 4 * model.param_count();
        // Aligned blocks waiting in the sum: at most one per level, and only several micro-batches wait.
        let pending = u64::from((n_micro_batches as u64).next_power_of_two().trailing_zeros());
        let tokens = (config.run.micro_batch * config.run.seq_len) as u64;
        let (d, ff, vocab) = (model.d_model as u64, model.d_ff as u64, model.vocab_size as u64);
        let q = (model.n_heads * model.head_dim) as u64;
        let kv = (model.n_kv_heads * model.head_dim) as u64;
        // Kept by a block: input, two normed inputs, the middle residual; rotated and plain q, k, v and
        // the attention's output; gate, up and their product.
        let block = 4 * tokens * (4 * d + 3 * q + 3 * kv + 3 * ff);
        // Logits and their gradient, beside the embedding's output and the head's input.
        let head = 4 * tokens * (2 * vocab + 3 * d);
        let layers = model.n_layers as u64;
        let activations = if config.run.recompute {
            layers * 4 * tokens * d + (3 * block / 2).max(head)
        } else {
            // A block's backward works while its own graph and those before it are still there.
            layers * block + head.max(block / 2)
        };
        // Where activations are kept, those of a block are gone when its gradients come: half of them is what a single
        // micro-batch adds to its peak.
        let gives_way = !config.run.recompute && n_micro_batches == 1;
        let own = if gives_way { n / 2 } else { n };
        Self {
            weights: n,
            moments: 2 * n,
            gradients: own + n * pending,
            activations,
            base: (48 << 20) + rayon::current_num_threads() as u64 * THREAD,
        }
    }

    /// All parts.
    pub fn total(&self) -> u64 {
        self.weights + self.moments + self.gradients + self.activations + self.base
    }

    /// The parts in words.
    pub fn describe(&self) -> String {
        format!(
            "weights {}, optimizer {}, gradients {}, activations {}, program {}",
            show_bytes(self.weights),
            show_bytes(self.moments),
            show_bytes(self.gradients),
            show_bytes(self.activations),
            show_bytes(self.base)
        )
    }
}

/// `1536` as `1.5 KiB`.
pub fn show_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// `8GiB`, `500 MB` or plain bytes.
///
/// # Errors
/// Text that is none of these.
pub fn parse_bytes(text: &str) -> Result<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let unit = match text[split..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => Some(1.0),
        "kb" => Some(1e3),
        "mb" => Some(1e6),
        "gb" => Some(1e9),
        "tb" => Some(1e12),
        "kib" | "k" => Some(1024.0),
        "mib" | "m" => Some(1_048_576.0),
        "gib" | "g" => Some(1_073_741_824.0),
        "tib" | "t" => Some(1_099_511_627_776.0),
        _ => None,
    };
    match (text[..split].parse::<f64>(), unit) {
        (Ok(number), Some(unit)) => Ok((number * unit) as u64),
        _ => Err(TrainError::plan(
            format!("memory_limit = \"{text}\" is not a size"),
            "write it like 8GiB, 500MB or 1000000",
        )),
    }
}

/// The largest resident size this process has had, in bytes; `None` where the system does not say.
pub fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_and_show() {
        assert_eq!(parse_bytes("8GiB").unwrap(), 8 << 30);
        assert_eq!(parse_bytes("1.5 kib").unwrap(), 1536);
        assert_eq!(parse_bytes("77").unwrap(), 77);
        assert!(parse_bytes("8 bananas").unwrap_err().to_string().contains("help:"));
        assert!(parse_bytes("").is_err());
        assert_eq!(show_bytes(1536), "1.5 KiB");
    }
}
