//! `caravan tokenizer`

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use caravan_dataset::{SourceSpec, read_documents};
use caravan_tokenizer::{Encode, Tokenizer, TrainConfig, train_bpe};
use caravan_train::{Console, Event, Observer, group, write_whole};
use clap::Subcommand;

use crate::output;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train BPE on text and write a SentencePiece model.
    #[command(after_help = "Example:
  caravan tokenizer train --text notes.txt --vocab-size 4096 --out notes.model")]
    Train {
        /// Text: file, folder or glob; may be given several times.
        #[arg(long, required = true, value_name = "PATH")]
        text: Vec<String>,
        /// Tokens of the vocabulary.
        #[arg(long, value_name = "V")]
        vocab_size: usize,
        /// Where to write it.
        #[arg(long, value_name = "X.model")]
        out: PathBuf,
        /// Field (JSON lines) or column (parquet) that holds the text.
        #[arg(long, default_value = "text")]
        text_field: String,
    },
    /// Print the ids of each line of a file, or of standard input, as JSON lines.
    #[command(after_help = "Examples:
  caravan tokenizer encode --tokenizer notes.model notes.txt
  caravan tokenizer encode --tokenizer my-model --special --whole prompt.txt")]
    Encode {
        /// Tokenizer file or folder.
        #[arg(long, value_name = "X")]
        tokenizer: PathBuf,
        /// Turn special tokens that are written in the text into their ids.
        #[arg(long)]
        special: bool,
        /// Take the whole file as one text instead of line by line.
        #[arg(long)]
        whole: bool,
        /// Text file; by default standard input.
        file: Option<PathBuf>,
    },
    /// Print the text of JSON lines of ids.
    #[command(after_help = "Example:
  caravan tokenizer decode --tokenizer notes.model ids.jsonl")]
    Decode {
        /// Tokenizer file or folder.
        #[arg(long, value_name = "X")]
        tokenizer: PathBuf,
        /// File with one JSON list of ids a line; by default standard input.
        file: Option<PathBuf>,
    },
    /// Say what a tokenizer is.
    #[command(after_help = "Example:
  caravan tokenizer info --tokenizer notes.model")]
    Info {
        /// Tokenizer file or folder.
        #[arg(long, value_name = "X")]
        tokenizer: PathBuf,
    },
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.command {
        Command::Train { text, vocab_size, out, text_field } => {
            train(text, *vocab_size, out, text_field)?
        }
        Command::Encode { tokenizer, special, whole, file } => {
            encode(&Tokenizer::load(tokenizer)?, *special, *whole, file.as_deref())?
        }
        Command::Decode { tokenizer, file } => {
            decode(&Tokenizer::load(tokenizer)?, file.as_deref())?
        }
        Command::Info { tokenizer } => info(&Tokenizer::load(tokenizer)?)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn train(text: &[String], vocab_size: usize, out: &Path, text_field: &str) -> Result<()> {
    let source = SourceSpec {
        paths: text.to_vec(),
        weight: 1.0,
        text_field: text_field.to_owned(),
        document_separator: None,
    };
    let documents = read_documents(&source, 0)?.map(|d| d.map(|d| d.text));
    let config = TrainConfig { vocab_size, ..TrainConfig::default() };
    let mut console = Console::new();
    let trained = train_bpe(&config, documents, &mut |p| {
        console.event(&Event::Progress { what: p.stage(), done: p.done(), total: p.total() });
    })?;
    console.close();
    write_whole(out, trained.bytes())?;
    output::note(&format!("wrote `{}`: {vocab_size} tokens", out.display()));
    Ok(())
}

fn encode(tokenizer: &Tokenizer, special: bool, whole: bool, file: Option<&Path>) -> Result<()> {
    let text = read(file)?;
    let lines: Vec<&str> = if whole { vec![&text] } else { text.lines().collect() };
    let ids = if special {
        lines
            .iter()
            .map(|line| tokenizer.encode_with_special(line))
            .collect::<Result<Vec<_>, _>>()?
    } else {
        tokenizer.encode_batch(&lines)?
    };
    for ids in ids {
        output::line(&serde_json::to_string(&ids)?)?;
    }
    Ok(())
}

fn decode(tokenizer: &Tokenizer, file: Option<&Path>) -> Result<()> {
    for (i, line) in read(file)?.lines().enumerate() {
        let ids: Vec<u32> = serde_json::from_str(line).map_err(|e| {
            anyhow::anyhow!(
                "line {}: {e}\nhelp: each line must be a list of ids like [1, 15, 7]",
                i + 1
            )
        })?;
        output::line(&tokenizer.decode(&ids)?)?;
    }
    Ok(())
}

fn info(tokenizer: &Tokenizer) -> Result<()> {
    let id = |id: Option<u32>| {
        id.map_or("none".to_owned(), |id| {
            format!("{id} {:?}", tokenizer.token(id).unwrap_or_default())
        })
    };
    output::line(&format!("kind        {:?}", tokenizer.kind()))?;
    output::line(&format!("vocabulary  {}", group(tokenizer.vocab_size() as u64)))?;
    output::line(&format!("BOS         {}", id(tokenizer.bos_id())))?;
    output::line(&format!("EOS         {}", id(tokenizer.eos_id())))?;
    output::line(&format!("hash        {}", tokenizer.hash()))
}

fn read(file: Option<&Path>) -> Result<String> {
    let Some(path) = file else {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .context("reading standard input\nhelp: the text must be UTF-8")?;
        return Ok(text);
    };
    let bytes = std::fs::read(path)
        .with_context(|| format!("reading `{}`\nhelp: check the path", path.display()))?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(e) => bail!(
            "`{}`: byte {} is not UTF-8\nhelp: convert the file, e.g. with iconv -t UTF-8",
            path.display(),
            e.utf8_error().valid_up_to()
        ),
    }
}
