//! One gradient from four micro-batches: the same bits with activations kept or recomputed, and for any order of work.
//!
//! Run with `cargo run --release -p caravan-parallel --example micro_batches`.

use std::io::Write;

use burn::tensor::{Device, Int, Tensor, TensorData};
use caravan_model::{Kernels, Llama, LlamaConfig, device, preset};
use caravan_parallel::{Activations, ExactSum, Gradients, LossSum, MicroBatch, forward_backward};

const ROWS: usize = 2;
const SEQ_LEN: usize = 32;

fn main() -> anyhow::Result<()> {
    let config = LlamaConfig {
        vocab_size: 128,
        d_model: 64,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 16,
        d_ff: 128,
        max_seq_len: SEQ_LEN,
        ..preset("8m")?
    };
    let device = device::parse("flex")?.autodiff();
    let model = Llama::init(&config, 1, Kernels::Fused, &device)?;

    let (kept, loss) = step(&model, &device, Activations::Keep, &[0, 1, 2, 3]);
    let (recomputed, _) = step(&model, &device, Activations::Recompute, &[3, 1, 0, 2]);
    let same = kept.iter().zip(recomputed.iter()).all(|(a, b)| {
        a.path == b.path && a.values.to_data().as_bytes() == b.values.to_data().as_bytes()
    });
    anyhow::ensure!(same, "the two gradients should have the same bits");

    // Sums travel; the mean is taken where it is needed.
    let mean = kept.scale(1.0 / loss.tokens as f64);
    let first = mean.iter().next().map(|gradient| gradient.path.clone()).unwrap_or_default();
    writeln!(
        std::io::stdout(),
        "loss {:.4} over {} tokens, {} gradients from {first} on, same bits kept and recomputed",
        loss.mean(),
        loss.tokens,
        mean.len()
    )?;
    Ok(())
}

/// The gradient of a step, its micro-batches worked off in the given order.
fn step(
    model: &Llama,
    device: &Device,
    activations: Activations,
    order: &[u64],
) -> (Gradients, LossSum) {
    let mut sum = ExactSum::new();
    for index in order {
        let (gradients, loss) = forward_backward(model, &micro_batch(*index, device), activations);
        sum.push(*index, gradients, loss);
    }
    sum.finish()
}

/// Made-up tokens: each sequence counts upwards in steps of its own.
fn micro_batch(index: u64, device: &Device) -> MicroBatch {
    let id = |row: usize, i: usize| ((i * (row + 1) + 17 * index as usize) % 128) as i32;
    let ids = |shift| {
        let values: Vec<i32> =
            (0..ROWS).flat_map(|row| (0..SEQ_LEN).map(move |i| id(row, i + shift))).collect();
        Tensor::<2, Int>::from_data(TensorData::new(values, [ROWS, SEQ_LEN]), device)
    };
    MicroBatch {
        tokens: ids(0),
        targets: ids(1),
        document_starts: None,
        n_targets: (ROWS * SEQ_LEN) as u64,
    }
}
