//! `bench train`: tokens per second of a whole update, comparable with PyTorch on the same shapes.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use caravan_model::Kernels;
use caravan_model::{Llama, SpecialIds, WeightDtype, load_hf, save_hf};
use caravan_optim::{AdamW, AdamWConfig, ParamGroups, Placement};
use caravan_parallel::Activations;
use caravan_train::{StepSettings, for_inference, step};

use super::{batch, shape};
use crate::output;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to compute; may be given several times.
    #[arg(long, default_values_t = ["flex".to_owned()])]
    device: Vec<String>,
    /// Number format.
    #[arg(long, default_value = "f32", value_parser = ["f32", "bf16"])]
    dtype: String,
    /// Shapes: 8m or 46m.
    #[arg(long, default_value = "8m", value_parser = ["8m", "46m"])]
    preset: String,
    /// Updates; the median of those after the first two counts.
    #[arg(long, default_value_t = 10)]
    steps: usize,
    /// Start from this Hugging Face folder and print every loss.
    #[arg(long, value_name = "HFDIR")]
    weights: Option<PathBuf>,
    /// Write the initial weights to this folder first, in Hugging Face form.
    #[arg(long, value_name = "HFDIR")]
    save_weights: Option<PathBuf>,
    /// fused or reference.
    #[arg(long, default_value = "fused", value_parser = ["fused", "reference"])]
    kernels: String,
    /// Recompute activations block by block.
    #[arg(long)]
    recompute: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    for device in &args.device {
        train(args, device)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn train(args: &Args, device_name: &str) -> Result<()> {
    if args.steps < 3 {
        bail!("--steps {}: the first two steps do not count\nhelp: give at least 3", args.steps);
    }
    let device = caravan_model::device::parse(device_name)?.autodiff();
    let kernels = match (args.kernels.as_str(), args.dtype.as_str()) {
        ("fused", "bf16") => Kernels::FusedBf16,
        ("fused", _) => Kernels::Fused,
        (_, "bf16") => {
            bail!("--dtype bf16 is a way of the fused kernels\nhelp: leave out --kernels reference")
        }
        _ => Kernels::Reference,
    };
    let (config, rows) = shape(&args.preset)?;
    let seq_len = config.max_seq_len;
    let mut model = match &args.weights {
        Some(dir) => load_hf(dir, kernels, &device)?.0,
        None => Llama::init(&config, 0, kernels, &device)?,
    };
    if let Some(dir) = &args.save_weights {
        save_hf(
            &for_inference(&model),
            dir,
            WeightDtype::F32,
            &SpecialIds { bos: None, eos: None },
        )?;
    }
    let placement = if device_name == "flex" { Placement::Host } else { Placement::Device };
    let mut optimizer = AdamW::new(AdamWConfig::default(), placement)?;
    let groups = ParamGroups::default();
    let settings = StepSettings {
        lr: 1e-3,
        weight_decay: 0.1,
        groups: &groups,
        grad_clip: 1.0,
        activations: if args.recompute { Activations::Recompute } else { Activations::Keep },
    };
    let (mut rates, mut losses) = (Vec::new(), Vec::new());
    for _ in 0..args.steps {
        let batch = batch(rows, seq_len, config.vocab_size, &device);
        let begun = Instant::now();
        let outcome;
        (model, outcome) = step(model, &mut optimizer, std::iter::once(batch), settings).map_err(
            |(_, found)| {
                anyhow::anyhow!(
                    "{} is not finite ({})\nhelp: start from other weights",
                    found.what,
                    found.value
                )
            },
        )?;
        rates.push((rows * seq_len) as f64 / begun.elapsed().as_secs_f64());
        losses.push(outcome.loss.mean());
    }
    let mut counted = rates[2..].to_vec();
    counted.sort_by(f64::total_cmp);
    output::line(&format!(
        "train preset={} device={device_name} dtype={} params={} loss={:.4} tokens_per_sec={:.0}",
        args.preset,
        args.dtype,
        config.param_count(),
        losses[losses.len() - 1],
        counted[counted.len() / 2]
    ))?;
    if args.weights.is_some() {
        let losses: Vec<String> = losses.iter().map(|l| format!("{l:.6}")).collect();
        output::line(&format!("losses {}", losses.join(" ")))?;
    }
    Ok(())
}
