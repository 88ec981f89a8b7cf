//! `caravan finetune predict`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use caravan_finetune::{Columns, SavedClassifier, predict, read_texts};
use serde_json::json;

use crate::output;
use crate::source::Source;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  caravan finetune predict --classifier sentiment --texts reviews.txt")]
pub(crate) struct Args {
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
    Ok(ExitCode::SUCCESS)
}
