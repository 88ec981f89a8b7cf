//! `caravan finetune`

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use caravan_finetune::{
    Classifier, Columns, Progress, SavedClassifier, Scores, Settings, class_names, classify,
    draw_confusion, predict, read_examples, read_texts, save_peft,
};
use caravan_model::Kernels;
use clap::Subcommand;
use serde_json::json;

use crate::output;
use crate::source::Source;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a classifier on labelled texts.
    Classify(ClassifyArgs),
    /// Label texts with a classifier; a JSON line for each.
    Predict(PredictArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  caravan finetune classify --model SmolLM2-135M.gguf --train train.tsv --dev dev.tsv --out sentiment
  caravan finetune classify --run runs/1 --train a.csv --dev b.csv --text-column review --out c method=full peak_lr=3e-5

Keys: seed epochs batch seq_len truncate peak_lr warmup weight_decay grad_clip method lora_rank lora_alpha
  lora_targets freeze evals_per_epoch patience metric dtype")]
struct ClassifyArgs {
    #[command(flatten)]
    source: Source,
    /// Labelled texts to train on: .tsv, .csv or .jsonl.
    #[arg(long, value_name = "FILE")]
    train: PathBuf,
    /// Labelled texts to measure on.
    #[arg(long, value_name = "FILE")]
    dev: PathBuf,
    /// Folder of the classifier.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Column or field of the text.
    #[arg(long, default_value = "text", value_name = "NAME")]
    text_column: String,
    /// Column or field of the class.
    #[arg(long, default_value = "label", value_name = "NAME")]
    label_column: String,
    /// Train on the first N examples only.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Settings, key=value.
    #[arg(value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  caravan finetune predict --classifier sentiment --texts reviews.txt")]
struct PredictArgs {
    /// Folder that `finetune classify` wrote.
    #[arg(long, value_name = "DIR")]
    classifier: PathBuf,
    /// Texts: a text per line, or .tsv, .csv or .jsonl.
    #[arg(long, value_name = "FILE")]
    texts: PathBuf,
    /// Column or field of the text.
    #[arg(long, default_value = "text", value_name = "NAME")]
    text_column: String,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.command {
        Command::Classify(args) => train(args)?,
        Command::Predict(args) => label(args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn train(args: &ClassifyArgs) -> Result<()> {
    let mut settings = Settings::default();
    for assignment in &args.settings {
        settings.set(assignment)?;
    }
    settings.validate()?;
    if args.out.join("classifier.json").exists() {
        bail!(
            "`{}` already holds a classifier\nhelp: give a new folder with --out",
            args.out.display()
        );
    }
    let columns = Columns { text: args.text_column.clone(), label: args.label_column.clone() };
    let mut examples = read_examples(&args.train, &columns)?;
    examples.truncate(args.limit.unwrap_or(examples.len()));
    let dev = read_examples(&args.dev, &columns)?;
    let names = class_names(&args.train, &examples)?;
    let loaded = args.source.load_trainable()?;
    let kernels = if settings.dtype == "bf16" { Kernels::FusedBf16 } else { Kernels::Fused };
    let model = loaded.model.clone().with_kernels(kernels);
    let tokenizer = loaded.tokenizer()?;
    output::note(&format!(
        "{} examples of {} classes ({}), {} to measure on",
        examples.len(),
        names.len(),
        names.join(", "),
        dev.len()
    ));
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("creating {}", args.out.display()))?;
    let metrics = args.out.join("metrics.jsonl");
    let mut rows = std::fs::File::create(&metrics)
        .with_context(|| format!("creating {}", metrics.display()))?;
    let mut failed = None;
    let mut report = |progress: &Progress| {
        let shown = show(progress);
        output::note(&shown);
        if let Err(error) = writeln!(rows, "{}", row(progress)) {
            failed.get_or_insert(error);
        }
        Ok(())
    };
    let outcome = classify(model, tokenizer, &names, [&examples, &dev], &settings, &mut report)?;
    if let Some(error) = failed {
        return Err(error).with_context(|| format!("writing {}", metrics.display()));
    }
    let base = std::path::absolute(&loaded.folder).unwrap_or_else(|_| loaded.folder.clone());
    let info = Classifier::new(
        base.clone(),
        args.source.run.is_some(),
        names.clone(),
        outcome.seq_len,
        settings.clone(),
    );
    info.save(&outcome.model, &args.out)?;
    if settings.method == "lora" {
        let name = base.display().to_string();
        save_peft(&outcome.model, &settings.lora(), &name, &args.out.join("adapter"))?;
    }
    let title = format!("{} of {} right", hits(&outcome.scores), dev.len());
    draw_confusion(&outcome.scores, &title, &args.out.join("confusion.svg"))?;
    let report = args.out.join("report.md");
    std::fs::write(&report, markdown(args, &settings, &outcome.scores, outcome.best_step))
        .with_context(|| format!("writing {}", report.display()))?;
    output::line(&format!(
        "accuracy {:.4}, macro F1 {:.4} after {} of {} updates; `{}`",
        outcome.scores.accuracy,
        outcome.scores.macro_f1,
        outcome.best_step,
        outcome.steps,
        args.out.display()
    ))?;
    Ok(())
}

fn hits(scores: &Scores) -> u64 {
    (0..scores.classes.len()).map(|i| scores.confusion[i][i]).sum()
}

fn show(progress: &Progress) -> String {
    let scores = progress.scores.as_ref().map_or(String::new(), |scores| {
        format!("  dev accuracy {:.4}, macro F1 {:.4}", scores.accuracy, scores.macro_f1)
    });
    format!(
        "{}/{}  loss {:.4}{scores}{}  {}",
        progress.step,
        progress.steps,
        progress.train_loss,
        if progress.is_best { " *" } else { "" },
        caravan_train::clock(progress.secs)
    )
}

fn row(progress: &Progress) -> serde_json::Value {
    let scores = progress.scores.as_ref();
    json!({
        "step": progress.step, "train_loss": progress.train_loss, "lr": progress.lr,
        "dev_accuracy": scores.map(|s| s.accuracy), "dev_macro_f1": scores.map(|s| s.macro_f1),
        "dev_loss": scores.map(|s| s.loss), "elapsed_secs": progress.secs,
    })
}

fn markdown(args: &ClassifyArgs, settings: &Settings, scores: &Scores, best_step: u64) -> String {
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

fn label(args: &PredictArgs) -> Result<()> {
    let saved = SavedClassifier::open(&args.classifier)?;
    let info = saved.info();
    let source = Source::of(&info.base, info.base_is_run);
    let loaded = source
        .load()
        .with_context(|| format!("the model that `{}` began with", args.classifier.display()))?;
    let model = saved.load(loaded.model.clone())?;
    let columns = Columns { text: args.text_column.clone(), ..Columns::default() };
    let texts = read_texts(Path::new(&args.texts), &columns)?;
    let found =
        predict(&model, loaded.tokenizer()?, &info.classes, &texts, info.seq_len, &info.settings)?;
    for (text, probabilities) in texts.iter().zip(found) {
        let best = (0..probabilities.len())
            .fold(0, |best, i| if probabilities[i] > probabilities[best] { i } else { best });
        let all: serde_json::Map<String, serde_json::Value> =
            info.classes.iter().cloned().zip(probabilities.iter().map(|p| json!(p))).collect();
        let line = json!({ "label": info.classes[best], "probabilities": all, "text": text });
        output::line(&line.to_string())?;
    }
    Ok(())
}
