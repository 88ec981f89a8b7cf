//! `caravan finetune classify`

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, Result};
use caravan_collective::Communicator;
use caravan_finetune::{
    Classifier, Columns, Ended, Progress, Scores, Session, Settings, class_names, classify,
    draw_confusion, read_examples, save_peft,
};
use serde_json::json;

use super::run::{KEYS, Rows, RunArgs, load, show};
use crate::output;
use crate::source::Source;

#[derive(Debug, clap::Args)]
#[command(after_help = format!("Examples:
  caravan finetune classify --model SmolLM2-135M.gguf --train train.tsv --dev dev.tsv --out sentiment
  caravan finetune classify --run runs/1 --train a.csv --dev b.csv --text-column review --out c method=full peak_lr=3e-5

Keys: class_weights pool layer_mix {KEYS}"))]
pub(crate) struct Args {
    #[command(flatten)]
    source: Source,
    /// Labelled texts to train on: .tsv, .csv or .jsonl.
    #[arg(long, value_name = "FILE")]
    train: PathBuf,
    /// Labelled texts to measure on.
    #[arg(long, value_name = "FILE")]
    dev: PathBuf,
    /// Column or field of the text.
    #[arg(long, default_value = "text", value_name = "NAME")]
    text_column: String,
    /// Column or field of the class.
    #[arg(long, default_value = "label", value_name = "NAME")]
    label_column: String,
    /// Train on the first N examples only.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    run: RunArgs,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let settings = args.run.settings(Settings::default())?;
    args.run.check("classifier.json")?;
    args.run.on_ranks(|world, stop| train(args, &settings, world, stop))
}

fn train(
    args: &Args,
    settings: &Settings,
    world: &Communicator,
    stop: &Arc<AtomicBool>,
) -> Result<ExitCode> {
    let out = &args.run.out;
    let columns = Columns { text: args.text_column.clone(), label: args.label_column.clone() };
    let mut examples = read_examples(&args.train, &columns)?;
    examples.truncate(args.limit.unwrap_or(examples.len()));
    let dev = read_examples(&args.dev, &columns)?;
    let names = class_names(&args.train, &examples)?;
    let (loaded, model) = load(&args.source, settings, world)?;
    let tokenizer = loaded.tokenizer()?;
    let is_first = world.rank() == 0;
    if is_first {
        output::note(&format!(
            "{} examples of {} classes ({}), {} to measure on",
            examples.len(),
            names.len(),
            names.join(", "),
            dev.len()
        ));
    }
    let mut rows = Rows::new(out, args.run.resume);
    let mut failed = None;
    let mut report = |progress: &Progress<Scores>| {
        let scores = &progress.scores;
        let text = format!("dev accuracy {:.4}, macro F1 {:.4}", scores.accuracy, scores.macro_f1);
        output::note(&show(progress, &text));
        if let Err(error) = rows.write(&row(progress)) {
            failed.get_or_insert(error);
        }
        Ok(())
    };
    let state = args.run.state();
    let session = Session { state: &state, world: world.clone(), stop };
    let sets = [&examples[..], &dev];
    let ended = classify(model, tokenizer, &names, sets, settings, &session, &mut report)?;
    failed.map_or(Ok(()), Err)?;
    let outcome = match ended {
        Ended::Finished(outcome) => outcome,
        Ended::Assisted => return Ok(ExitCode::SUCCESS),
        Ended::Stopped { step, steps } => return Ok(args.run.stopped(step, steps, is_first)),
    };
    let base = std::path::absolute(&loaded.folder).unwrap_or_else(|_| loaded.folder.clone());
    if settings.method == "lora" {
        let name = base.display().to_string();
        save_peft(&outcome.model, &settings.lora(), &name, &out.join("adapter"))?;
    }
    let title = format!("{} of {} right", hits(&outcome.scores), dev.len());
    draw_confusion(&outcome.scores, &title, &out.join("confusion.svg"))?;
    let report = out.join("report.md");
    std::fs::write(&report, markdown(args, settings, &outcome.scores, outcome.best_step))
        .with_context(|| format!("writing {}", report.display()))?;
    // Last: with this file the folder is a classifier.
    let is_run = args.source.run.is_some();
    Classifier::new(base, is_run, names, outcome.seq_len, settings.clone())
        .save(&outcome.model, out)?;
    args.run.clear()?;
    output::line(&format!(
        "accuracy {:.4}, macro F1 {:.4} after {} of {} updates; `{}`",
        outcome.scores.accuracy,
        outcome.scores.macro_f1,
        outcome.best_step,
        outcome.steps,
        out.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn hits(scores: &Scores) -> u64 {
    (0..scores.classes.len()).map(|i| scores.confusion[i][i]).sum()
}

fn row(progress: &Progress<Scores>) -> serde_json::Value {
    let scores = &progress.scores;
    json!({
        "step": progress.step, "train_loss": progress.train_loss, "lr": progress.lr,
        "dev_accuracy": scores.accuracy, "dev_macro_f1": scores.macro_f1,
        "dev_loss": scores.loss, "elapsed_secs": progress.secs,
    })
}

fn markdown(args: &Args, settings: &Settings, scores: &Scores, best_step: u64) -> String {
    let mut text = format!(
        "# A classifier\n\nTrained on `{}`, measured on `{}`; the weights are those after update {best_step}.\n\n\
         accuracy {:.4}, macro F1 {:.4}, loss {:.4}\n\n| class | precision | recall | F1 | examples |\n|---|---|---|---|---|\n",
        args.train.display(),
        args.dev.display(),
        scores.accuracy,
        scores.macro_f1,
        scores.loss
    );
    for class in &scores.classes {
        text.push_str(&format!(
            "| {} | {:.4} | {:.4} | {:.4} | {} |\n",
            class.name, class.precision, class.recall, class.f1, class.support
        ));
    }
    let settings = serde_json::to_string_pretty(settings).unwrap_or_default();
    text.push_str(&format!("\n![confusion](confusion.svg)\n\n```json\n{settings}\n```\n"));
    text
}
