//! `caravan eval`

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use caravan_dataset::{SourceSpec, read_documents};
use caravan_eval::{
    EvalDocument, ItemReport, TASKS, Task, TaskOptions, TaskRun, TextOptions, evaluate_text,
    read_ids, read_task_file, run_task_items, score_ids, table, task,
};
use caravan_tokenizer::Encode as _;
use caravan_train::write_whole;
use serde_json::json;

use crate::output;
use crate::source::{Loaded, Source};

/// Rows per forward pass.
const EVAL_ROWS: usize = 8;

const EXAMPLES: &str = "\
Examples:
  caravan eval --model smollm2 --task piqa=piqa.jsonl --task arc_easy=arc.jsonl
  caravan eval --model smollm2 --task gsm8k=test.jsonl --shots 5 --shots-from train.jsonl
  caravan eval --model smollm2 --task xquad_zh=xquad.zh.json --limit 200 --items items.jsonl
  caravan eval --model smollm2 --task-file colours.toml --json result.json
  caravan eval --run runs/first --text notes.txt
  caravan eval --list-tasks";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    source: Source,
    /// Text to score: file, folder or glob.
    #[arg(long, value_name = "PATH")]
    text: Vec<String>,
    /// A task and its file, e.g. piqa=piqa.jsonl.
    #[arg(long, value_name = "NAME=FILE")]
    task: Vec<String>,
    /// A task of your own: a TOML file with its kind, its file and templates (docs/eval.md).
    #[arg(long, value_name = "TOML")]
    task_file: Vec<PathBuf>,
    /// Name every task, with a line about each.
    #[arg(long, exclusive = true)]
    list_tasks: bool,
    /// JSON file {"input_ids": [[..]]} to score token by token.
    #[arg(long, value_name = "FILE")]
    ids: Option<PathBuf>,
    /// Examples shown before each question; without it none, or as the task file says.
    #[arg(long, value_name = "K")]
    shots: Option<usize>,
    /// Draw the examples from this file, such as a benchmark's training part, instead of the other rows.
    #[arg(long, value_name = "FILE", requires = "shots")]
    shots_from: Option<PathBuf>,
    /// Seed of the choice of examples.
    #[arg(long, default_value_t = 0, value_name = "SEED")]
    seed: u64,
    /// Score only the first N items of a task.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Write what was asked and answered to this file, one JSON object per item.
    #[arg(long, value_name = "OUT")]
    items: Option<PathBuf>,
    /// About how many tokens of tasks go through the model at once.
    #[arg(long, default_value_t = 4096, value_name = "N")]
    batch_tokens: usize,
    /// Put BOS before prompts of tasks; by default as the model's tokenizer does.
    #[arg(long, value_name = "YES|NO", action = clap::ArgAction::Set, value_parser = yes_or_no)]
    bos: Option<bool>,
    /// Write all results to this file.
    #[arg(long, value_name = "OUT")]
    json: Option<PathBuf>,
    /// Field (JSON lines) or column (parquet) that holds the text.
    #[arg(long, default_value = "text")]
    text_field: String,
    /// Text between two documents of a plain file.
    #[arg(long, value_name = "TEXT")]
    document_separator: Option<String>,
    /// Tokens that a window moves on by; by default a whole window.
    #[arg(long, value_name = "N")]
    stride: Option<usize>,
    /// Tokens of a window; by default the model's context.
    #[arg(long, value_name = "N")]
    seq_len: Option<usize>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.list_tasks {
        return list();
    }
    let tasks = tasks(args)?;
    if args.text.is_empty() && tasks.is_empty() && args.ids.is_none() {
        bail!(
            "there is nothing to score\nhelp: give --text PATH, --task NAME=FILE, --task-file TOML or --ids FILE"
        );
    }
    let loaded = args.source.load()?;
    let mut results = serde_json::Map::new();
    for path in &args.text {
        let (name, value) = text(args, &loaded, path)?;
        results.entry("text").or_insert_with(|| json!({}))[name] = value;
    }
    let mut items = String::new();
    for asked in &tasks {
        let tokenizer = loaded.tokenizer()?;
        let options = TaskOptions {
            bos: args.bos.unwrap_or_else(|| tokenizer.adds_bos()),
            ends: loaded.ends.clone(),
            ..asked.options.clone()
        };
        let begun = Instant::now();
        let TaskRun { report, items: rows } =
            run_task_items(&loaded.model, tokenizer, &asked.task, &asked.file, &options)?;
        let seconds = begun.elapsed().as_secs_f64();
        output::piece(&table(std::slice::from_ref(&report)))?;
        output::note(&format!(
            "{} items in {seconds:.1} s, {:.1} per second",
            report.n_items,
            report.n_items as f64 / seconds
        ));
        let mut value = serde_json::to_value(&report)?;
        value["seconds"] = json!(seconds);
        results.entry("tasks").or_insert_with(|| json!({}))[&*asked.task.name] = value;
        if args.items.is_some() {
            lines(&mut items, &rows)?;
        }
    }
    if let Some(file) = &args.ids {
        let value = ids(&loaded, file)?;
        if args.json.is_none() {
            output::line(&value.to_string())?;
        }
        results.insert("ids".to_owned(), value);
    }
    if let Some(out) = &args.items {
        write_whole(out, items.as_bytes())?;
    }
    if let Some(out) = &args.json {
        let text = serde_json::to_string_pretty(&results).context("results as JSON")?;
        write_whole(out, format!("{text}\n").as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A task, its file, and how it is asked.
struct Asked {
    task: Task,
    file: PathBuf,
    options: TaskOptions,
}

/// All tasks of the command line, before a model is loaded.
fn tasks(args: &Args) -> Result<Vec<Asked>> {
    let options = TaskOptions {
        shots: args.shots.unwrap_or(0),
        shots_from: args.shots_from.clone(),
        limit: args.limit,
        seed: args.seed,
        batch_tokens: args.batch_tokens,
        bos: true,
        ends: Vec::new(),
    };
    let mut tasks: Vec<Asked> = Vec::new();
    let mut add = |asked: Asked| {
        if tasks.iter().any(|other| other.task.name == asked.task.name) {
            bail!(
                "the task {} is given twice\nhelp: run the command once for each file",
                asked.task.name
            );
        }
        tasks.push(asked);
        Ok(())
    };
    for spec in &args.task {
        let Some((name, file)) = spec.split_once('=') else {
            bail!("--task {spec}: expected NAME=FILE\nhelp: e.g. --task piqa=piqa.jsonl");
        };
        let (task, file) = (task(name)?.clone(), PathBuf::from(file));
        add(Asked { task, file, options: options.clone() })?;
    }
    for path in &args.task_file {
        let own = read_task_file(path)?;
        let shots = args.shots.or(own.shots).unwrap_or(0);
        let shots_from = args.shots_from.clone().or(own.shots_from);
        let options = TaskOptions { shots, shots_from, ..options.clone() };
        add(Asked { task: own.task, file: own.file, options })?;
    }
    Ok(tasks)
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("expected yes or no".to_owned()),
    }
}

fn list() -> Result<ExitCode> {
    let width = TASKS.iter().map(|task| task.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for task in TASKS {
        // Writing to a String cannot fail.
        let _ =
            writeln!(text, "{:width$}  {} ({})", task.name, task.about, task.metrics.join(", "));
    }
    output::piece(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Appends one JSON object per row.
fn lines(out: &mut String, rows: &[ItemReport]) -> Result<()> {
    for row in rows {
        out.push_str(&serde_json::to_string(row).context("an item as JSON")?);
        out.push('\n');
    }
    Ok(())
}

fn text(args: &Args, loaded: &Loaded, path: &str) -> Result<(String, serde_json::Value)> {
    let tokenizer = loaded.tokenizer()?;
    let source = SourceSpec {
        paths: vec![path.to_owned()],
        weight: 1.0,
        text_field: args.text_field.clone(),
        document_separator: args.document_separator.clone(),
    };
    let seq_len = args.seq_len.unwrap_or(loaded.model.config().max_seq_len);
    let options = TextOptions {
        seq_len,
        stride: args.stride.unwrap_or(seq_len),
        rows: EVAL_ROWS,
        packed: loaded.document_mask,
    };
    let mut failed = None;
    let documents = read_documents(&source, 0)?.map_while(|document| {
        match document
            .map_err(anyhow::Error::from)
            .and_then(|d| Ok(EvalDocument::from_text(tokenizer, &d.text)?))
        {
            Ok(document) => Some(document),
            Err(e) => {
                failed = Some(e);
                None
            }
        }
    });
    let score = evaluate_text(&loaded.model, documents, &options);
    if let Some(e) = failed {
        return Err(e);
    }
    let score = score?;
    output::line(&format!(
        "{path}: {:.4} bits per byte, perplexity {:.3} per token, {} documents, {} tokens, {} bytes",
        score.bits_per_byte(),
        score.perplexity(),
        score.n_documents,
        score.n_tokens,
        score.n_bytes
    ))?;
    let value = json!({
        "bits_per_byte": score.bits_per_byte(),
        "perplexity": score.perplexity(),
        "nats": score.nats,
        "documents": score.n_documents,
        "tokens": score.n_tokens,
        "bytes": score.n_bytes,
    });
    Ok((path.to_owned(), value))
}

fn ids(loaded: &Loaded, file: &Path) -> Result<serde_json::Value> {
    let ids = read_ids(file)?;
    let scores = score_ids(&loaded.model, &ids)?;
    Ok(serde_json::to_value(scores)?)
}
