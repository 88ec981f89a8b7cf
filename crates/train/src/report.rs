//! `report.md`: how good the model is, beside what a byte n-gram and the corpus itself allow.

use std::fmt::Write as _;
use std::path::Path;

use caravan_eval::{ByteNgram, TextScore};
use caravan_model::{Llama, SpecialIds, WeightDtype, save_hf};
use caravan_tokenizer::Encode;

use crate::data::{Data, write_whole};
use crate::error::{Result, TrainError};
use crate::memory::{peak_rss_bytes, show_bytes};
use crate::metrics::Row;
use crate::plan::{Plan, group};
use crate::run_dir::RunDir;
use crate::state::Position;
use crate::validation::{self, Sample};

/// Order of the byte model that the report compares with.
const NGRAM_ORDER: usize = 6;
/// Above this the n-gram's tables would take more memory than the training did.
const NGRAM_MAX_BYTES: u64 = 32 << 20;

/// The end of a run.
#[derive(Debug)]
pub struct Report {
    /// Score of the whole validation text; `None` if nothing was held back.
    pub validation: Option<TextScore>,
    /// Score of the same text as each stage of a curriculum reads it, by the stage's name; empty for a run of one scale.
    pub scales: Vec<(String, TextScore)>,
    /// Bits per byte of the interpolated byte 6-gram on the same text; `None` if not computed.
    pub ngram_bits_per_byte: Option<f64>,
    /// Entropy of the corpus where its generator tells it, bits per byte.
    pub corpus_bits_per_byte: Option<f64>,
    /// Texts of the trained model.
    pub samples: Vec<Sample>,
    /// The report as Markdown, as written to `report.md`.
    pub markdown: String,
}

/// Exports the model and writes the report.
///
/// # Errors
/// A file cannot be written, or sampling failed.
pub(crate) fn write(
    model: &Llama,
    plan: &Plan,
    data: &Data,
    dir: &RunDir,
    rows: &[Row],
    position: Position,
) -> Result<Report> {
    export(model, data, &dir.export())?;
    let validation = validation::score(model, plan, data, u64::MAX)?;
    let mut scales = Vec::new();
    for stage in &plan.stages {
        let score = validation::score_stage(model, stage, data)?;
        scales.extend(stage.name.clone().zip(score));
    }
    let ngram_bits_per_byte = ngram(data)?;
    let corpus_bits_per_byte = corpus_entropy(&plan.config.data.text);
    let mut samples = Vec::new();
    for k in 0..3 {
        samples.extend(validation::samples(model, plan, data, position.step + 37 * k)?);
    }
    let mut report = Report {
        validation,
        scales,
        ngram_bits_per_byte,
        corpus_bits_per_byte,
        samples,
        markdown: String::new(),
    };
    report.markdown = markdown(&report, plan, data, dir, rows, position);
    write_whole(&dir.report(), report.markdown.as_bytes())?;
    Ok(report)
}

/// Writes model and tokenizer in Hugging Face form.
fn export(model: &Llama, data: &Data, dir: &Path) -> Result<()> {
    let special = SpecialIds { bos: data.tokenizer.bos_id(), eos: data.tokenizer.eos_id() };
    // A run that was killed while it finished has written it before.
    if dir.exists() {
        std::fs::remove_dir_all(dir).map_err(TrainError::io("replacing", dir))?;
    }
    save_hf(model, dir, WeightDtype::F32, &special)?;
    data.tokenizer.save_into(dir)?;
    Ok(())
}

fn ngram(data: &Data) -> Result<Option<f64>> {
    let (train, val) = (data.shards.train(), data.shards.val());
    if val.n_documents() == 0 || train.n_source_bytes() > NGRAM_MAX_BYTES {
        return Ok(None);
    }
    let train = train.documents().map(|d| Ok(d?.text.as_bytes())).collect::<Result<Vec<_>>>()?;
    let val = val.documents().map(|d| Ok(d?.text.as_bytes())).collect::<Result<Vec<_>>>()?;
    Ok(ByteNgram::fit(train.into_iter(), NGRAM_ORDER).bits_per_byte(val.into_iter()))
}

/// `corpus.json` beside the texts, as the generator of the fixtures writes it.
fn corpus_entropy(texts: &[String]) -> Option<f64> {
    let path = Path::new(texts.first()?);
    let dir = if path.is_dir() { path } else { path.parent()? };
    let text = std::fs::read_to_string(dir.join("corpus.json")).ok()?;
    let json: serde_json::Value = serde_json::from_str(&text).ok()?;
    json["entropy_bits_per_byte"]["all"].as_f64()
}

fn markdown(
    report: &Report,
    plan: &Plan,
    data: &Data,
    dir: &RunDir,
    rows: &[Row],
    position: Position,
) -> String {
    let mut out = String::from("# Training report\n\n");
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    line("| measure | value |".to_owned());
    line("|---|---|".to_owned());
    if let Some(score) = &report.validation {
        let bits = score.bits_per_byte();
        line(format!("| validation bits per byte | **{bits:.4}** |"));
        line(format!("| validation perplexity per token | {:.3} |", score.perplexity()));
        if let Some(ngram) = report.ngram_bits_per_byte {
            let below = 100.0 * (1.0 - bits / ngram);
            let place = if below >= 0.0 { "below" } else { "above" };
            line(format!(
                "| interpolated byte {NGRAM_ORDER}-gram on the same text | {ngram:.4} bits per byte (the model is {:.1}% {place}) |",
                below.abs()
            ));
        }
        if let Some(corpus) = report.corpus_bits_per_byte {
            line(format!(
                "| entropy of the corpus, told by its generator | {corpus:.4} bits per byte |"
            ));
        }
        line(format!(
            "| validation text | {} documents, {} tokens, {} bytes |",
            group(data.shards.val().n_documents() as u64),
            group(score.n_tokens),
            group(score.n_bytes)
        ));
    } else {
        line("| validation | none was held back (val_fraction = 0) |".to_owned());
    }
    let train_loss = rows.iter().rev().find_map(|r| r.train_loss);
    if let Some(loss) = train_loss {
        line(format!("| last training loss | {loss:.4} nats per token |"));
    }
    line(format!("| parameters | {} |", group(plan.model.param_count())));
    line(format!(
        "| steps, training tokens | {}, {} |",
        group(position.step),
        group(position.tokens)
    ));
    let mut rates: Vec<f64> = rows.iter().filter_map(|r| r.tokens_per_sec).collect();
    rates.sort_by(f64::total_cmp);
    if let Some(median) = rates.get(rates.len() / 2) {
        line(format!(
            "| time, median speed | {:.0} s, {} tokens per second |",
            position.elapsed_secs,
            group(*median as u64)
        ));
    }
    if let Some(peak) = peak_rss_bytes() {
        line(format!(
            "| memory | {} at the peak, {} predicted |",
            show_bytes(peak),
            show_bytes(plan.memory.total())
        ));
    }
    line(String::new());
    by_scale(report, plan, &mut line);
    line("![loss](loss.svg)".to_owned());
    line(String::new());
    line("## Samples".to_owned());
    line(String::new());
    for sample in &report.samples {
        line(format!("> **{}**{}", sample.prompt, sample.text.replace('\n', "  \n> ")));
        line(String::new());
    }
    let _ = write!(out, "## Where everything lies\n\n{}", files(dir));
    let _ = write!(out, "\n## What to try next\n\n```\n{}```\n", next_commands(dir));
    out
}

/// A table of the stages of a curriculum.
fn by_scale(report: &Report, plan: &Plan, line: &mut dyn FnMut(String)) {
    if plan.stages.iter().all(|stage| stage.name.is_none()) {
        return;
    }
    line("## By scale".to_owned());
    line(String::new());
    line("| stage | text by the | tokens seen at once | steps | training tokens | validation bits per byte | perplexity per token |".to_owned());
    line("|---|---|---|---|---|---|---|".to_owned());
    for stage in &plan.stages {
        let (name, run) = (stage.name.as_deref().unwrap_or_default(), &stage.config.run);
        let score = report.scales.iter().find(|(scored, _)| scored == name).map(|(_, s)| s);
        let scored = score.map_or("- | -".to_owned(), |s| {
            format!("{:.4} | {:.3}", s.bits_per_byte(), s.perplexity())
        });
        line(format!(
            "| {name} | {} | {} | {} | {} | {scored} |",
            stage.unit.name(),
            run.seq_len,
            group(run.steps),
            group(stage.tokens())
        ));
    }
    line(String::new());
    line(
        "Validation is of the trained model: the held-back text cut as the stage cuts it, in windows of the stage's length."
            .to_owned(),
    );
    line(String::new());
}

fn files(dir: &RunDir) -> String {
    let at = dir.path().display();
    format!(
        "- `{at}/config.toml`: the resolved configuration\n\
         - `{at}/metrics.jsonl`, `{at}/events.out.tfevents.*`: every step\n\
         - `{at}/loss.svg`: the picture above\n\
         - `{at}/checkpoints/`: to go on from\n\
         - `{at}/export/`: model and tokenizer in Hugging Face form\n"
    )
}

/// Commands that make sense after a run.
pub fn next_commands(dir: &RunDir) -> String {
    let at = dir.path().display();
    format!(
        "cargo xtask generate --run {at} --prompt \"Once\" --temperature 0.7\n\
         cargo xtask eval --run {at} --text FILE\n\
         cargo xtask export --run {at} --out my-model --dtype bf16\n\
         cargo xtask train --text YOUR_TEXT.txt steps=2000\n"
    )
}
