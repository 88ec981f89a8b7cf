//! `bench decode`: how fast a prompt is read and tokens follow it, one at a time.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use burn::tensor::{Int, Tensor, TensorData};
use caravan_model::{Forward, Kernels, Llama, Positions};

use super::{bandwidth, batch, shape};
use crate::output;
use crate::source::Source;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to compute.
    #[arg(long, default_value = "flex")]
    device: String,
    /// Shapes, with random weights: 8m or 46m.
    #[arg(long, default_value = "46m", value_parser = ["8m", "46m"])]
    preset: String,
    /// A model instead: a folder in Hugging Face form or a GGUF file.
    #[arg(long, value_name = "PATH|hf:REPO", conflicts_with = "preset")]
    model: Option<PathBuf>,
    /// Tokens of the prompt; by default half of what the model reads, 256 at most.
    #[arg(long)]
    prompt: Option<usize>,
    /// Tokens that follow it.
    #[arg(long, default_value_t = 64)]
    tokens: usize,
    /// How often; the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let (name, model) = match &args.model {
        Some(path) => {
            let source = Source::of(path, false);
            let source = Source { device: args.device.clone(), quiet: true, ..source };
            (path.display().to_string(), source.load()?.model)
        }
        None => {
            let device = caravan_model::device::parse(&args.device)?;
            let (config, _) = shape(&args.preset)?;
            (args.preset.clone(), Llama::init(&config, 0, Kernels::Fused, &device)?)
        }
    };
    let context = model.config().max_seq_len;
    let n_prompt = args.prompt.unwrap_or((context / 2).min(256));
    if n_prompt == 0 || args.tokens == 0 || args.rounds == 0 {
        bail!("--prompt, --tokens and --rounds are 1 or more");
    }
    if n_prompt + args.tokens > context {
        bail!(
            "a prompt of {n_prompt} tokens and {} more exceed the model's context of {context}\nhelp: lower --prompt or --tokens",
            args.tokens
        );
    }
    let prompt = batch(1, n_prompt, model.config().vocab_size, &model.device()).tokens;
    let (mut reading, mut forward, mut decoding) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..=args.rounds {
        let begun = Instant::now();
        read(&model.logits(prompt.clone(), None));
        forward.push(n_prompt as f64 / begun.elapsed().as_secs_f64());
        let mut cache = model.new_cache(1, n_prompt + args.tokens);
        let begun = Instant::now();
        let mut next = best(&model.extend(prompt.clone(), &mut cache, Positions::Last));
        reading.push(n_prompt as f64 / begun.elapsed().as_secs_f64());
        let begun = Instant::now();
        for _ in 0..args.tokens {
            let token = TensorData::new(vec![next], [1, 1]);
            let token = Tensor::<2, Int>::from_data(token, &model.device());
            next = best(&model.extend(token, &mut cache, Positions::Last));
        }
        decoding.push(args.tokens as f64 / begun.elapsed().as_secs_f64());
    }
    let bytes = weight_bytes(&model);
    let bandwidth = bandwidth::read();
    let rate = median(&decoding);
    output::line(&format!(
        "decode model={name} device={} dtype=f32 params={} threads={} prompt_tokens={n_prompt} prompt_tokens_per_sec={:.0} forward_tokens_per_sec={:.0} tokens_per_sec={rate:.1} weight_bytes={bytes} gb_per_sec={:.2} read_bandwidth_gb_per_sec={:.2} share={:.2}",
        args.device,
        model.parameters().iter().map(|info| info.shape.iter().product::<usize>()).sum::<usize>(),
        rayon::current_num_threads(),
        median(&reading),
        median(&forward),
        rate * bytes as f64 / 1e9,
        bandwidth / 1e9,
        rate * bytes as f64 / bandwidth,
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Bytes of the weights that a token needs: all but the rows of other tokens in an embedding that is not the head, too.
fn weight_bytes(model: &Llama) -> usize {
    let is_looked_up = |path: &str| path == "embed.weight" && model.tied_weight().is_none();
    let used = model.parameters().into_iter().filter(|info| !is_looked_up(&info.path));
    used.map(|info| info.shape.iter().product::<usize>()).sum::<usize>() * size_of::<f32>()
}

/// Waits for the values.
fn read<const D: usize>(tensor: &Tensor<D>) -> TensorData {
    tensor.clone().into_data()
}

/// The likeliest token after the last position.
fn best(logits: &Tensor<3>) -> i32 {
    let logits: Vec<f32> = read(logits).try_into_vec().expect("logits are f32");
    let best = (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
    best as i32
}

/// Of all rounds but the first, which warms up.
fn median(rates: &[f64]) -> f64 {
    let mut rates = rates[1..].to_vec();
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}
