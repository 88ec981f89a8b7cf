//! `caravan generate`

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use caravan_generate::{Batcher, Options, Request, RequestId, Stop, TextStream, generate};
use caravan_tokenizer::Encode as _;

use crate::source::{Loaded, Source};
use crate::{output, sampling};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  caravan generate --run runs/1 --prompt 'Once upon a time'
  caravan generate --model model.gguf --prompt 'The capital of France is' --temperature 0
  caravan generate --run runs/1 --prompts prompts.jsonl --n 3 > texts.jsonl")]
pub(crate) struct Args {
    #[command(flatten)]
    source: Source,
    /// Text to go on from.
    #[arg(long, value_name = "TEXT", required_unless_present = "prompts")]
    prompt: Option<String>,
    /// JSON lines, each a text to go on from; the answers are JSON lines in the same order, written in one batch.
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    prompts: Option<PathBuf>,
    /// Tokens to write at most.
    #[arg(long, default_value_t = 200, value_name = "N")]
    max_tokens: usize,
    /// Texts for each prompt, with seeds that count up.
    #[arg(long, default_value_t = 1, value_name = "N")]
    n: u64,
    /// Text that ends the writing, and is not written; may be given several times.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Go on beyond the model's context from the newest half of it, and take only the end of a prompt that is too long.
    #[arg(long)]
    window: bool,
    /// Sequences that are written at once with --prompts.
    #[arg(long, default_value_t = 16, value_name = "N")]
    batch: usize,
    #[command(flatten)]
    sampling: sampling::Args,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.n == 0 {
        bail!("--n 0\nhelp: ask for at least one text");
    }
    args.sampling.sampler(0).validate()?;
    let loaded = args.source.load()?;
    match (&args.prompts, &args.prompt) {
        (Some(path), _) => batch(args, &loaded, path)?,
        (None, prompt) => {
            for n in 0..args.n {
                stream(args, &loaded, prompt.as_deref().unwrap_or_default(), n)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// One text, shown as it is written.
fn stream(args: &Args, loaded: &Loaded, prompt: &str, n: u64) -> Result<()> {
    let options = Options {
        max_tokens: args.max_tokens,
        sampler: args.sampling.sampler(n),
        stop: args.stop.clone(),
        ends: loaded.ends.clone(),
        window: args.window,
    };
    let mut failed = Ok(());
    output::piece(prompt)?;
    let mut show = |text: &str| match output::piece(text) {
        Ok(()) => ControlFlow::Continue(()),
        Err(e) => {
            failed = Err(e);
            ControlFlow::Break(())
        }
    };
    let generated = generate(&loaded.model, loaded.tokenizer()?, prompt, &options, &mut show)?;
    failed?;
    output::line("")?;
    if generated.stop == Stop::ContextFull {
        output::note("note: the model's context is full; --window goes on beyond it");
    }
    Ok(())
}

/// All prompts of a file together; a JSON line for each text.
fn batch(args: &Args, loaded: &Loaded, path: &Path) -> Result<()> {
    if args.window {
        bail!("--window does not go with --prompts\nhelp: leave out one of them");
    }
    let tokenizer = loaded.tokenizer()?;
    let prompts = read(path)?;
    let mut batcher = Batcher::new(&loaded.model, args.batch, tokenizer.vocab_size());
    let mut texts: Vec<Writing<'_>> = Vec::new();
    for (line, prompt) in prompts.iter().enumerate() {
        let ids = loaded.prompt_ids(prompt)?;
        for n in 0..args.n {
            let request = Request {
                prompt: ids.clone(),
                max_tokens: args.max_tokens,
                sampler: args.sampling.sampler(n),
                ends: loaded.ends.clone(),
            };
            let id = batcher
                .submit(request)
                .with_context(|| format!("{} line {}", path.display(), line + 1))?;
            let text = TextStream::new(tokenizer, &ids, &args.stop)?;
            texts.push(Writing { id, prompt, text, n_tokens: 0, stop: None });
        }
    }
    let mut written = 0;
    while !batcher.is_idle() {
        for event in batcher.step() {
            if let Some(error) = event.error {
                return Err(error.into());
            }
            let Some(one) = texts.iter_mut().find(|one| one.id == event.request) else { continue };
            if let Some(id) = event.id {
                one.n_tokens += 1;
                one.text.push(id)?;
            }
            one.stop = event.stop;
            if one.text.is_stopped() {
                one.stop = Some(Stop::StopString);
                batcher.cancel(one.id);
            } else if one.stop.is_some() {
                one.text.finish()?;
            }
        }
        // In the order of the file, each as soon as those before it are done.
        while texts.first().is_some_and(|one| one.stop.is_some()) {
            let one = texts.remove(0);
            let line = serde_json::json!({
                "prompt": one.prompt, "text": one.text.into_text(), "n_tokens": one.n_tokens,
                "stop": one.stop.map(Stop::name),
            });
            output::line(&line.to_string())?;
            written += 1;
        }
    }
    output::note(&format!("wrote {written} texts for {} prompts", prompts.len()));
    Ok(())
}

/// A text that is being written.
struct Writing<'a> {
    id: RequestId,
    prompt: &'a str,
    text: TextStream<'a>,
    n_tokens: usize,
    stop: Option<Stop>,
}

fn read(path: &Path) -> Result<Vec<String>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let mut prompts = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let prompt = serde_json::from_str::<String>(line).map_err(|e| {
            anyhow::anyhow!(
                "{} line {}: {e}\nhelp: write a text in quotes on each line, as in \"Once upon\"",
                path.display(),
                i + 1
            )
        })?;
        prompts.push(prompt);
    }
    if prompts.is_empty() {
        bail!("{} holds no prompt\nhelp: write a text in quotes on each line", path.display());
    }
    Ok(prompts)
}
