//! `caravan finetune instruct`

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, Result};
use caravan_collective::Communicator;
use caravan_finetune::{
    AnswerScores, Dialect, Ended, Outcome, Progress, Session, Settings, instruct,
    read_conversations, save_peft,
};
use caravan_model::WeightDtype;
use serde_json::json;

use super::run::{KEYS, Rows, RunArgs, load, show};
use crate::source::{Loaded, Source};
use crate::{export, output};

#[derive(Debug, clap::Args)]
#[command(after_help = format!("Examples:
  caravan finetune instruct --model SmolLM2-135M.gguf --train chats.jsonl --dev held-out.jsonl --out tuned
  caravan finetune instruct --run runs/1 --chat-template chatml --train a.jsonl --dev b.jsonl --out c method=full peak_lr=3e-5
  caravan chat --model SmolLM2-135M.gguf --adapter tuned/adapter
  caravan chat --model c/model

A line of the files: {{\"messages\": [{{\"role\": .., \"content\": ..}}]}}, {{\"conversations\": [{{\"from\": .., \"value\": ..}}]}},
  {{\"instruction\": .., \"input\": .., \"output\": ..}} or {{\"prompt\": .., \"completion\": ..}}

Keys: {KEYS}"))]
pub(crate) struct Args {
    #[command(flatten)]
    source: Source,
    /// Conversations to train on, JSON lines.
    #[arg(long, value_name = "FILE")]
    train: PathBuf,
    /// Conversations to measure on.
    #[arg(long, value_name = "FILE")]
    dev: PathBuf,
    /// How turns are written: plain, chatml, raw or a file; without it, as the model's own template does.
    #[arg(long, value_name = "NAME|FILE")]
    chat_template: Option<String>,
    /// Train on the first N conversations only.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Write a model with the adapters folded in too, as OUT/model.
    #[arg(long)]
    merge: bool,
    #[command(flatten)]
    run: RunArgs,
}

/// Written last: with it the folder has a result.
const RESULT: &str = "instruct.json";

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let default = Settings { metric: "loss".to_owned(), batch: 16, ..Settings::default() };
    let settings = args.run.settings(default)?;
    args.run.check(RESULT)?;
    args.run.on_ranks(|world, stop| train(args, &settings, world, stop))
}

fn train(
    args: &Args,
    settings: &Settings,
    world: &Communicator,
    stop: &Arc<AtomicBool>,
) -> Result<ExitCode> {
    let mut conversations = read_conversations(&args.train)?;
    conversations.truncate(args.limit.unwrap_or(conversations.len()));
    let dev = read_conversations(&args.dev)?;
    let (loaded, model) = load(&args.source, settings, world)?;
    let template = loaded.template(args.chat_template.as_deref())?;
    let is_first = world.rank() == 0;
    if is_first {
        output::note(&format!(
            "{} conversations, {} to measure on",
            conversations.len(),
            dev.len()
        ));
    }
    let mut rows = Rows::new(&args.run.out, args.run.resume);
    let mut failed = None;
    let mut report = |progress: &Progress<AnswerScores>| {
        output::note(&show(progress, &format!("dev loss {:.4}", progress.scores.loss)));
        let row = json!({
            "step": progress.step, "train_loss": progress.train_loss, "lr": progress.lr,
            "dev_loss": progress.scores.loss, "elapsed_secs": progress.secs,
        });
        if let Err(error) = rows.write(&row) {
            failed.get_or_insert(error);
        }
        Ok(())
    };
    let dialect =
        Dialect { tokenizer: loaded.tokenizer()?, template: &template, ends: &loaded.ends };
    let state = args.run.state();
    let session = Session { state: &state, world: world.clone(), stop };
    let sets = [&conversations[..], &dev];
    let ended = instruct(model, dialect, sets, settings, &session, &mut report)?;
    failed.map_or(Ok(()), Err)?;
    match ended {
        Ended::Finished(outcome) => finish(args, settings, &loaded, &outcome)?,
        Ended::Assisted => {}
        Ended::Stopped { step, steps } => return Ok(args.run.stopped(step, steps, is_first)),
    }
    Ok(ExitCode::SUCCESS)
}

fn finish(
    args: &Args,
    settings: &Settings,
    loaded: &Loaded,
    outcome: &Outcome<AnswerScores>,
) -> Result<()> {
    let out = &args.run.out;
    let base = std::path::absolute(&loaded.folder).unwrap_or_else(|_| loaded.folder.clone());
    let is_lora = settings.method == "lora";
    // With the result, so that talking to it needs no further word.
    let template = loaded.template_source(args.chat_template.as_deref())?;
    let mut made = Vec::new();
    if is_lora {
        let dir = out.join("adapter");
        save_peft(&outcome.model, &settings.lora(), &base.display().to_string(), &dir)?;
        export::write_template(&template, &dir)?;
        made.push(dir);
    }
    if !is_lora || args.merge {
        let dir = out.join("model");
        let model = outcome.model.clone().merged();
        // Of a run that was killed while it wrote.
        if dir.exists() {
            std::fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
        }
        export::write(&model, Some(loaded.tokenizer()?), Some(&template), WeightDtype::F32, &dir)?;
        made.push(dir);
    }
    let report = json!({
        "base": base, "settings": settings, "dev_loss": outcome.scores.loss,
        "dev_tokens": outcome.scores.n_tokens, "best_step": outcome.best_step,
        "steps": outcome.steps, "seq_len": outcome.seq_len,
    });
    let path = out.join(RESULT);
    caravan_train::write_whole(&path, format!("{report:#}\n").as_bytes())
        .with_context(|| format!("writing {}", path.display()))?;
    args.run.clear()?;
    let made: Vec<String> = made.iter().map(|dir| format!("`{}`", dir.display())).collect();
    output::line(&format!(
        "loss {:.4} nats per answer token (perplexity {:.2}) after {} of {} updates; {}",
        outcome.scores.loss,
        outcome.scores.loss.exp(),
        outcome.best_step,
        outcome.steps,
        made.join(", ")
    ))?;
    output::note(&format!("next:\n  {}", next(args, out, is_lora)));
    Ok(())
}

fn next(args: &Args, out: &Path, is_lora: bool) -> String {
    let source = match (&args.source.run, &args.source.model) {
        (Some(run), _) => format!("--run {}", run.display()),
        (_, Some(model)) => format!("--model {}", model.display()),
        _ => String::new(),
    };
    match is_lora {
        true => format!("cargo xtask chat {source} --adapter {}", out.join("adapter").display()),
        false => format!("cargo xtask chat --model {}", out.join("model").display()),
    }
}
