//! Counts the tokens of a file.
//!
//! ```text
//! cargo run --release --example count_tokens -- TOKENIZER FILE
//! cargo run --release --example count_tokens
//! ```
//! Without arguments a tokenizer is trained on the spot and counts a text of its own.
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::path::Path;

use caravan_tokenizer::{Encode, Tokenizer, TrainConfig, train_bpe};

const STORY: &str = "Once upon a time there was a llama that carried salt over the mountains.
One day the llama met another llama, and the two walked on together.
很久以前，有一只羊驼，它背着盐翻过大山。
有一天，它遇到了另一只羊驼，它们就一起走。
";

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (tokenizer, text) = match arguments.as_slice() {
        [tokenizer, file] => {
            (Tokenizer::load(Path::new(tokenizer))?, std::fs::read_to_string(file)?)
        }
        [] => {
            // The corpus is an iterator of documents, each read only when its turn comes.
            let documents = STORY.lines().map(|line| Ok::<_, std::io::Error>(line.to_owned()));
            let config =
                TrainConfig { vocab_size: 370, character_coverage: 1.0, ..TrainConfig::default() };
            let trained = train_bpe(&config, documents, &mut |_| {})?;
            (trained.tokenizer()?, STORY.to_owned())
        }
        _ => anyhow::bail!("expected no arguments, or TOKENIZER FILE"),
    };

    let ids = tokenizer.encode(&text)?;
    let words: Vec<String> = ids.iter().take(12).filter_map(|id| tokenizer.token(*id)).collect();
    println!("vocabulary      {}", tokenizer.vocab_size());
    println!("tokens          {}", ids.len());
    println!("bytes per token {:.2}", text.len() as f64 / ids.len().max(1) as f64);
    println!("it begins       {}", words.join(" | "));
    assert_eq!(tokenizer.decode(&ids)?, text);
    Ok(())
}
