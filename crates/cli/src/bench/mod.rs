//! `caravan bench`: what this machine does, one line per case.

mod bandwidth;
mod decode;
mod train;

use std::process::ExitCode;

use anyhow::Result;
use burn::tensor::{Int, Tensor, TensorData};
use caravan_model::{LlamaConfig, preset};
use caravan_parallel::MicroBatch;
use clap::Subcommand;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Training throughput of a preset.
    #[command(after_help = "Examples:
  caravan bench train --preset 8m --dtype bf16
  caravan bench train --preset 46m --steps 20 --recompute")]
    Train(train::Args),
    /// Reading of a prompt and greedy decoding after it, beside the bandwidth of the memory.
    #[command(after_help = "Examples:
  caravan bench decode --preset 46m
  caravan bench decode --model SmolLM2-135M.gguf --tokens 100")]
    Decode(decode::Args),
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.command {
        Command::Train(args) => train::run(args),
        Command::Decode(args) => decode::run(args),
    }
}

/// A preset with the sequence length of the comparison, and the rows of its batch.
fn shape(name: &str) -> Result<(LlamaConfig, usize)> {
    let (seq_len, rows) = if name == "8m" { (256, 8) } else { (512, 4) };
    let mut config = preset(name)?;
    config.max_seq_len = seq_len;
    Ok((config, rows))
}

/// The token stream that every framework in the comparison sees.
fn batch(rows: usize, seq_len: usize, vocab: usize, device: &burn::tensor::Device) -> MicroBatch {
    let token = |i: usize| ((i * 7919 + i / 3 * 31) % vocab) as i32;
    let at = |shift: usize| -> Vec<i32> {
        (0..rows)
            .flat_map(|r| (0..seq_len).map(move |t| token(r * (seq_len + 1) + t + shift)))
            .collect()
    };
    let tensor =
        |values| Tensor::<2, Int>::from_data(TensorData::new(values, [rows, seq_len]), device);
    MicroBatch {
        tokens: tensor(at(0)),
        targets: tensor(at(1)),
        document_starts: None,
        n_targets: (rows * seq_len) as u64,
    }
}
