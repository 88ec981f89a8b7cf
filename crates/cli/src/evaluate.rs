//! `caravan eval`

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use caravan_dataset::{SourceSpec, read_documents};
use caravan_eval::{
    EvalDocument, TaskOptions, TextOptions, evaluate_text, read_ids, run_task, score_ids, table,
    task,
};
use caravan_train::write_whole;
use serde_json::json;

use crate::output;
use crate::source::{Loaded, Source};

/// Rows per forward pass.
const EVAL_ROWS: usize = 8;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    source: Source,
    /// Text to score: file, folder or glob.
    #[arg(long, value_name = "PATH")]
    text: Vec<String>,
    /// A task and its file, e.g. piqa=piqa.jsonl.
    #[arg(long, value_name = "NAME=FILE")]
    task: Vec<String>,
    /// JSON file {"input_ids": [[..]]} to score token by token.
    #[arg(long, value_name = "FILE")]
    ids: Option<PathBuf>,
    /// Examples shown before each question.
    #[arg(long, default_value_t = 0, value_name = "K")]
    shots: usize,
    /// Score only the first N items of a task.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Write all results to this file.
    #[arg(long, value_name = "OUT")]
    json: Option<PathBuf>,
    /// Write what was found for every item of the tasks to this file, JSON lines.
    #[arg(long, value_name = "OUT")]
    items: Option<PathBuf>,
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
    if args.text.is_empty() && args.task.is_empty() && args.ids.is_none() {
        bail!("there is nothing to score\nhelp: give --text PATH, --task NAME=FILE or --ids FILE");
    }
    let loaded = args.source.load()?;
    let mut results = serde_json::Map::new();
    let mut items = String::new();
    for path in &args.text {
        let (name, value) = text(args, &loaded, path)?;
        results.entry("text").or_insert_with(|| json!({}))[name] = value;
    }
    for spec in &args.task {
        let Some((name, file)) = spec.split_once('=') else {
            bail!("--task {spec}: expected NAME=FILE\nhelp: e.g. --task piqa=piqa.jsonl");
        };
        let options =
            TaskOptions { shots: args.shots, limit: args.limit, ..TaskOptions::default() };
        let begun = Instant::now();
        let report =
            run_task(&loaded.model, loaded.tokenizer()?, task(name)?, file.as_ref(), &options)?;
        output::piece(&table(std::slice::from_ref(&report)))?;
        let rate = report.n_items as f64 / begun.elapsed().as_secs_f64();
        output::note(&format!("{rate:.1} items/s"));
        for item in &report.items {
            let mut line = serde_json::to_value(item)?;
            line["task"] = json!(name);
            items.push_str(&format!("{line}\n"));
        }
        results.entry("tasks").or_insert_with(|| json!({}))[name] = serde_json::to_value(&report)?;
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

fn ids(loaded: &Loaded, file: &std::path::Path) -> Result<serde_json::Value> {
    let ids = read_ids(file)?;
    let scores = score_ids(&loaded.model, &ids)?;
    Ok(serde_json::to_value(scores)?)
}
