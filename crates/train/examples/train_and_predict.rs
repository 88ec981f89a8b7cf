//! The whole library on one page: text, tokens, epochs with their losses, a prediction, a test accuracy.
//!
//! The task is made up on the spot: lines such as `max 3 8 5 > 8`. The model reads them as plain
//! text and learns to write the largest digit. Run it with
//! `cargo run --release -p caravan-train --example train_and_predict`.
#![allow(clippy::print_stdout)] // an example shows what it does

use std::ops::ControlFlow;
use std::sync::Arc;

use anyhow::{Context, Result};
use caravan_dataset::{
    BuildConfig, Loader, LoaderConfig, Packing, ShardSet, Side, SourceSpec, build,
};
use caravan_generate::{Options, Sampler, generate};
use caravan_model::Kernels;
use caravan_model::{Llama, LlamaConfig};
use caravan_optim::{
    AdamW, AdamWConfig, LrSchedule, ParamGroups, Placement, Schedule, ScheduleConfig,
};
use caravan_parallel::Activations;
use caravan_tokenizer::{ByteTokenizer, Encode};
use caravan_train::{StepSettings, for_inference, step, to_device};

const EPOCHS: u64 = 4;
const ROWS: usize = 16;

fn main() -> Result<()> {
    // 1. Text. Every seventh triple of digits is kept for the test and never trained on.
    let dir = tempfile::tempdir()?;
    let (mut train, mut test) = (String::new(), Vec::new());
    for i in 0..1000usize {
        let n = i * 379 % 1000; // all triples once, in no particular order
        let (a, b, c) = (n / 100, n / 10 % 10, n % 10);
        let largest = a.max(b).max(c);
        if n.is_multiple_of(7) {
            test.push((format!("max {a} {b} {c} > "), largest.to_string()));
        } else {
            train.push_str(&format!("max {a} {b} {c} > {largest}\n"));
        }
    }
    let path = dir.path().join("max.txt");
    std::fs::write(&path, train)?;

    // 2. Tokens: each line is a document; shards on disk, memory-mapped.
    let tokenizer = ByteTokenizer;
    let source = SourceSpec {
        paths: vec![path.display().to_string()],
        weight: 1.0,
        text_field: "text".to_owned(),
        document_separator: Some("\n".to_owned()),
    };
    let config = BuildConfig { sources: vec![source], val_fraction: 0.0, ..BuildConfig::default() };
    let shards = dir.path().join("shards");
    build(&config, &tokenizer, &shards, &mut |_| {})?;
    let shards = Arc::new(ShardSet::open(&shards)?);
    let loader = LoaderConfig {
        seq_len: 64,
        seed: 1,
        packing: Packing::ConcatSplit,
        document_mask: true,
        weights: Vec::new(),
    };
    let loader = Loader::new(shards, Side::Train, loader)?;

    // 3. A model of 200,000 parameters on an autodiff device.
    let device = caravan_model::device::parse("flex")?.autodiff();
    let config = LlamaConfig {
        vocab_size: tokenizer.vocab_size(),
        d_model: 64,
        n_layers: 3,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 16,
        d_ff: 192,
        max_seq_len: 64,
        ..caravan_model::preset("3m")?
    };
    let mut model = Llama::init(&config, 1, Kernels::Fused, &device)?;
    println!(
        "{} parameters, {} sequences per epoch",
        config.param_count(),
        loader.sequences_per_epoch()
    );

    // 4. Epochs.
    let mut optimizer = AdamW::new(AdamWConfig::default(), Placement::Host)?;
    let steps_per_epoch = loader.sequences_per_epoch().div_ceil(ROWS as u64) * 4;
    let schedule = LrSchedule::new(ScheduleConfig {
        schedule: Schedule::Cosine,
        peak_lr: 4e-3,
        min_lr: 4e-4,
        warmup_steps: 10,
        steps: EPOCHS * steps_per_epoch,
        ..ScheduleConfig::default()
    })?;
    let groups = ParamGroups::default(); // matrices decay, norms and embedding do not
    for epoch in 0..EPOCHS {
        let (mut nats, mut tokens) = (0.0, 0);
        for i in 0..steps_per_epoch {
            let at = epoch * steps_per_epoch + i;
            let batch = to_device(&loader.batch(at * ROWS as u64, ROWS)?, true, &device);
            let settings = StepSettings {
                lr: schedule.lr(at),
                weight_decay: 0.1,
                groups: &groups,
                grad_clip: 1.0,
                activations: Activations::Keep,
            };
            let outcome;
            (model, outcome) = step(model, &mut optimizer, std::iter::once(batch), settings)
                .map_err(|(_, found)| anyhow::anyhow!("{} is not finite", found.what))?;
            nats += outcome.loss.nats;
            tokens += outcome.loss.tokens;
        }
        println!("epoch {}: {:.4} nats per token", epoch + 1, nats / tokens as f64);
    }

    // 5. A prediction, and how many of the lines it has never seen it gets right.
    let model = for_inference(&model);
    let answer = |prompt: &str| -> Result<String> {
        let options = Options { max_tokens: 1, sampler: Sampler::greedy(), ..Options::default() };
        let mut text = String::new();
        generate(&model, &tokenizer, prompt, &options, &mut |piece| {
            text.push_str(piece);
            ControlFlow::Continue(())
        })?;
        Ok(text)
    };
    let (prompt, expected) = test.first().context("a test line")?;
    println!("{prompt}{} (expected {expected})", answer(prompt)?);
    let mut right = 0;
    for (prompt, expected) in &test {
        right += usize::from(answer(prompt)? == *expected);
    }
    println!(
        "test accuracy: {right} of {} = {:.1}%",
        test.len(),
        100.0 * right as f64 / test.len() as f64
    );
    anyhow::ensure!(right * 10 >= test.len() * 8, "the model did not learn the task");
    Ok(())
}
