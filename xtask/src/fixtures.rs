//! `cargo xtask fixtures`: writes the corpus under `fixtures/` that the default run trains on, or
//! with `--check` proves that the files on disk are what the generator makes.
//!
//! ```text
//! english.grammar, chinese.grammar -> grammar.rs -> derive.rs + rng.rs -> stories.*.jsonl
//!                                                \-> exact P(story)    -> corpus.json
//! ```

mod derive;
mod grammar;
mod rng;

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use self::grammar::Grammar;
use self::rng::Rng;

/// Writes the story corpus under `fixtures/`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Write nothing; fail if a file differs from what would be written
    #[arg(long)]
    pub check: bool,
}

/// The seed of the committed corpus.
const SEED: u64 = 20_260;

/// A language: its name in file names, its grammar, how many stories to draw.
struct Language {
    name: &'static str,
    grammar: &'static str,
    n_stories: usize,
}

/// About four hundred kilobytes each: with half of that a small model memorises before it learns to copy names.
const LANGUAGES: [Language; 2] = [
    Language { name: "en", grammar: include_str!("fixtures/english.grammar"), n_stories: 1200 },
    Language { name: "zh", grammar: include_str!("fixtures/chinese.grammar"), n_stories: 1200 },
];

/// Writes or checks the files.
///
/// # Errors
/// When a file cannot be read or written, or with `--check` when one differs.
pub fn run(args: &Args) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
    for (name, fresh) in files()? {
        let path = folder.join(name);
        if args.check {
            let found =
                std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            if found != fresh.as_bytes() {
                bail!(
                    "{} is not what its generator makes\nhelp: run `cargo xtask fixtures`, and \
                     commit the result if the grammar was meant to change",
                    path.display()
                );
            }
        } else {
            std::fs::write(&path, fresh).with_context(|| format!("writing {}", path.display()))?;
        }
    }
    Ok(())
}

/// The stories of a language.
#[derive(Debug)]
struct Corpus {
    name: &'static str,
    /// All different, in the order they were drawn.
    stories: Vec<String>,
    /// The sum of -log2 P(story).
    bits: f64,
}

impl Corpus {
    fn n_bytes(&self) -> usize {
        self.stories.iter().map(String::len).sum()
    }

    fn json_lines(&self) -> String {
        self.stories.iter().fold(String::new(), |mut lines, story| {
            // The grammars have no other character that JSON must escape; a test holds them to it.
            let _ = writeln!(lines, "{{\"text\": \"{}\"}}", story.replace('"', "\\\""));
            lines
        })
    }
}

/// Every generated file: its name and its content.
fn files() -> Result<Vec<(String, String)>> {
    let corpora: Result<Vec<Corpus>> =
        LANGUAGES.iter().enumerate().map(|(stream, language)| draw(language, stream)).collect();
    let corpora = corpora?;
    let mut files: Vec<(String, String)> = corpora
        .iter()
        .map(|corpus| (format!("stories.{}.jsonl", corpus.name), corpus.json_lines()))
        .collect();
    let description = describe(&corpora, &files);
    files.push(("corpus.json".to_owned(), description));
    Ok(files)
}

/// Draws stories until there are enough that differ.
fn draw(language: &Language, stream: usize) -> Result<Corpus> {
    let grammar =
        Grammar::parse(language.grammar).with_context(|| format!("grammar {}", language.name))?;
    let mut corpus = Corpus { name: language.name, stories: Vec::new(), bits: 0.0 };
    let mut seen = HashSet::new();
    for index in 0.. {
        if corpus.stories.len() == language.n_stories {
            break;
        }
        let story = grammar.story(&mut Rng::new(SEED, stream as u64, index));
        if !seen.insert(story.text.clone()) {
            continue;
        }
        let mass = grammar.probability(&story.text);
        ensure!(
            mass.derivations > 0 && mass.bits() < story.bits + 1e-6,
            "story {index} of {}: drawn with {} bits, {mass:?} when matched",
            language.name,
            story.bits
        );
        corpus.bits += mass.bits();
        corpus.stories.push(story.text);
    }
    Ok(corpus)
}

/// `corpus.json`. The entropy is what a perfect model of the grammars would reach on these
/// stories, per byte of text and without the end of a story, which the text itself gives away.
/// In all, a story's language is one more choice.
fn describe(corpora: &[Corpus], files: &[(String, String)]) -> String {
    let n_stories: usize = corpora.iter().map(|corpus| corpus.stories.len()).sum();
    let n_bytes: usize = corpora.iter().map(Corpus::n_bytes).sum();
    let language_bits = |corpus: &Corpus| {
        corpus.stories.len() as f64 * (n_stories as f64 / corpus.stories.len() as f64).log2()
    };
    let bits: f64 = corpora.iter().map(|corpus| corpus.bits + language_bits(corpus)).sum();
    let per_language = |value: &dyn Fn(usize) -> String| {
        let fields: Vec<String> = corpora
            .iter()
            .enumerate()
            .map(|(i, corpus)| format!("\"{}\": {}", corpus.name, value(i)))
            .collect();
        fields.join(", ")
    };
    let stories = per_language(&|i| corpora[i].stories.len().to_string());
    let bytes = per_language(&|i| files[i].1.len().to_string());
    let text_bytes = per_language(&|i| corpora[i].n_bytes().to_string());
    let entropy =
        per_language(&|i| format!("{:.4}", corpora[i].bits / corpora[i].n_bytes() as f64));
    let all = bits / n_bytes as f64;
    format!(
        "{{\n  \"generator\": \"cargo xtask fixtures\",\n  \"seed\": {SEED},\n  \
         \"stories\": {{{stories}}},\n  \"bytes\": {{{bytes}}},\n  \
         \"text_bytes\": {{{text_bytes}}},\n  \
         \"entropy_bits_per_byte\": {{\"all\": {all:.4}, {entropy}}}\n}}\n"
    )
}

#[cfg(test)]
mod tests;
