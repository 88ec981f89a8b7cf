//! `caravan data`

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, bail};
use caravan_dataset::{BuildConfig, ShardSet, SourceSpec, TokenBatch, Unit};
use caravan_tokenizer::Tokenizer;
use caravan_train::{
    Console, Event, Observer, Plan, RunConfig, RunDir, describe_shards, group, loader,
};
use clap::Subcommand;
use serde_json::json;

use crate::output;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Encode text into shards.
    #[command(after_help = "Examples:
  caravan data build --tokenizer notes.model --text notes.txt --out shards
  caravan data build --tokenizer notes.model --text 'corpus/*.jsonl.zst' --unit sentence --out sentences")]
    Build {
        /// Tokenizer file or folder.
        #[arg(long, value_name = "X")]
        tokenizer: PathBuf,
        /// Text: file, folder or glob; each one given is a source of its own.
        #[arg(long, required = true, value_name = "PATH")]
        text: Vec<String>,
        /// New folder for the shards.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Share of the text held back for validation.
        #[arg(long, default_value_t = 0.1)]
        val_fraction: f64,
        /// Field (JSON lines) or column (parquet) that holds the text.
        #[arg(long, default_value = "text")]
        text_field: String,
        /// Text between two documents of a plain file.
        #[arg(long, value_name = "TEXT")]
        document_separator: Option<String>,
        /// What stands by itself in the shards.
        #[arg(long, default_value = "document", value_parser = ["document", "paragraph", "sentence"])]
        unit: String,
    },
    /// Say what a folder of shards holds.
    #[command(after_help = "Example:
  caravan data inspect --data shards --document 0 --tokenizer notes.model")]
    Inspect {
        /// Folder of shards.
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// Print this training document, too.
        #[arg(long, value_name = "I")]
        document: Option<usize>,
        /// Tokenizer file or folder, to print the document's pieces.
        #[arg(long, value_name = "X")]
        tokenizer: Option<PathBuf>,
    },
    /// Check every byte of a folder of shards.
    #[command(after_help = "Example:
  caravan data verify --data shards")]
    Verify {
        /// Folder of shards.
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
    },
    /// Print the exact batch of a step, a JSON line per sequence.
    #[command(after_help = "Examples:
  caravan data batch --run runs/first --step 100
  caravan data batch --data shards --step 1 seq_len=128 global_batch=4")]
    Batch {
        /// Folder of shards.
        #[arg(long, value_name = "DIR", required_unless_present = "run")]
        data: Option<PathBuf>,
        /// Folder of a run, whose settings and shards are taken.
        #[arg(long, value_name = "DIR")]
        run: Option<PathBuf>,
        /// The step, from 1.
        #[arg(long, value_name = "S")]
        step: u64,
        /// Settings that shape a batch: seed seq_len global_batch packing document_mask weights.
        #[arg(value_name = "KEY=VALUE")]
        settings: Vec<String>,
    },
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.command {
        Command::Build {
            tokenizer,
            text,
            out,
            val_fraction,
            text_field,
            document_separator,
            unit,
        } => {
            let sources = text
                .iter()
                .map(|path| SourceSpec {
                    paths: vec![path.clone()],
                    weight: 1.0,
                    text_field: text_field.clone(),
                    document_separator: document_separator
                        .as_ref()
                        .map(|s| s.replace("\\n", "\n").replace("\\t", "\t")),
                })
                .collect();
            let unit = match unit.as_str() {
                "paragraph" => Unit::Paragraph,
                "sentence" => Unit::Sentence,
                _ => Unit::Document,
            };
            let val_fraction = *val_fraction;
            build(
                &BuildConfig { sources, val_fraction, unit, ..BuildConfig::default() },
                tokenizer,
                out,
            )?;
        }
        Command::Inspect { data, document, tokenizer } => {
            inspect(data, *document, tokenizer.as_deref())?
        }
        Command::Verify { data } => {
            let report = ShardSet::verify(data)?;
            output::line(&format!(
                "`{}` is whole: {} shards, {} bytes",
                data.display(),
                report.shards,
                group(report.file_bytes)
            ))?;
        }
        Command::Batch { data, run, step, settings } => {
            batch(data.as_deref(), run.as_deref(), *step, settings)?
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn build(config: &BuildConfig, tokenizer: &Path, out: &Path) -> Result<()> {
    let tokenizer = Tokenizer::load(tokenizer)?;
    let mut console = Console::new();
    let report = caravan_dataset::build(config, &tokenizer, out, &mut |p| {
        console.event(&Event::Progress {
            what: "shards",
            done: p.done.text_bytes,
            total: Some(p.input_bytes),
        });
    });
    console.close();
    let report = report?;
    for note in report.notes() {
        output::note(&format!("note: {note}"));
    }
    output::line(&describe_shards(&report, config.unit))
}

fn inspect(dir: &Path, document: Option<usize>, tokenizer: Option<&Path>) -> Result<()> {
    let set = ShardSet::open(dir)?;
    output::line(&format!("tokenizer   {}", set.tokenizer_hash()))?;
    output::line(&format!("vocabulary  {}", group(set.vocab_size() as u64)))?;
    for (name, split) in [("train", set.train()), ("validation", set.val())] {
        output::line(&format!(
            "{name:<11} {} documents, {} tokens ({} of text), {} bytes, {:.3} bytes per token",
            group(split.n_documents() as u64),
            group(split.n_tokens()),
            group(split.n_text_tokens()),
            group(split.n_source_bytes()),
            split.n_source_bytes() as f64 / (split.n_text_tokens() as f64).max(1.0)
        ))?;
    }
    let Some(index) = document else { return Ok(()) };
    if index >= set.train().n_documents() {
        bail!(
            "--document {index}: there are {} training documents\nhelp: the first is 0",
            set.train().n_documents()
        );
    }
    let document = set.train().document(index)?;
    output::line(&format!(
        "\ndocument {index} of source {}, {} bytes",
        document.source,
        document.n_bytes()
    ))?;
    output::line(document.text)?;
    let tokens = document.tokens();
    output::line(&serde_json::to_string(&tokens)?)?;
    if let Some(path) = tokenizer {
        let tokenizer = Tokenizer::load(path)?;
        set.check_tokenizer(&tokenizer)?;
        let pieces: Vec<String> =
            tokens.iter().map(|id| tokenizer.token(*id).unwrap_or_default()).collect();
        output::line(&serde_json::to_string(&pieces)?)?;
    }
    Ok(())
}

fn batch(data: Option<&Path>, run: Option<&Path>, step: u64, settings: &[String]) -> Result<()> {
    if step == 0 {
        bail!("--step 0: steps count from 1\nhelp: the first batch is --step 1");
    }
    let config = match run {
        Some(dir) => RunConfig::from_file(&RunDir::new(dir).config())?,
        None => RunConfig::default(),
    };
    let config = config.with_overrides(settings)?;
    let dir = match (data, run) {
        (Some(dir), _) => dir.to_path_buf(),
        (None, Some(dir)) => RunDir::new(dir).shards()?,
        (None, None) => unreachable!("clap asks for one of them"),
    };
    let set = Arc::new(ShardSet::open(&dir)?);
    let plan = Plan::new(config, "flex")?;
    let stage = plan.stage_after(step - 1);
    if stage.unit != Unit::Document && data.is_none() {
        bail!(
            "step {step} is of stage `{}`, whose text is cut by the {}\nhelp: name the shards of that unit with --data, a folder in the run's cache_dir",
            stage.name.as_deref().unwrap_or_default(),
            stage.unit.name()
        );
    }
    let loader = loader(&stage.config, &plan, set)?;
    let rows = stage.config.run.global_batch;
    let first = (step - 1 - stage.first_step) * rows as u64;
    let batch: TokenBatch = loader.batch(first, rows)?;
    let width = batch.seq_len + 1;
    for row in 0..rows {
        let value = json!({
            "step": step,
            "sequence": first + row as u64,
            "document_ends": batch.document_ends[row],
            "tokens": batch.tokens[row * width..(row + 1) * width],
        });
        output::line(&value.to_string())?;
    }
    Ok(())
}
