//! Training BPE and writing it as a SentencePiece model.
//!
//! ```text
//! documents --units--> distinct stretches and counts --alphabet--> words of required characters
//!           --BpeTrainer of `tokenizers`--> merges in order --model--> .model bytes
//! ```
//!
//! What may become a piece is what sentencepiece's own BPE trainer allows with its defaults, digits
//! split: nothing across a space, a line end, a tab or a change of script, at most 16 characters.
//! The result depends on the text alone, not on the order of threads.

mod alphabet;
mod merges;
mod model;
mod units;

use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use self::units::Units;
use crate::error::{Result, TokenizerError};
use crate::tokenizer::{Tokenizer, write_whole};

/// `<unk>`, `<s>`, `</s>`.
const N_SPECIAL: usize = 3;
/// One token for each byte.
const N_BYTES: usize = 256;

/// Texts are read together up to about this many bytes before they are counted on all cores.
const BATCH_BYTES: usize = 16 << 20;

/// How often progress is reported while pairs are merged.
const TICK: Duration = Duration::from_millis(100);

/// Settings of a training.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainConfig {
    /// Tokens of the vocabulary, with 3 special tokens and 256 bytes. Default 4096.
    pub vocab_size: usize,
    /// Share of the text's characters that get a token of their own, the most frequent first; the
    /// others are written as bytes. 0.98 to 1, default 0.9995.
    pub character_coverage: f64,
    /// Characters of the longest piece. 1 to 512, default 16.
    pub max_piece_chars: usize,
    /// Whether every digit is a token. Default true, as in LLaMA 1 and 2.
    pub split_digits: bool,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            vocab_size: 4096,
            character_coverage: 0.9995,
            max_piece_chars: 16,
            split_digits: true,
        }
    }
}

/// How far a training is.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TrainProgress {
    /// Texts are read and counted.
    Reading {
        /// Documents so far.
        documents: u64,
        /// Their bytes.
        bytes: u64,
        /// Distinct stretches so far; memory grows with these, not with the text.
        distinct: usize,
    },
    /// Pairs are merged; reported while it runs, and once at its end.
    Merging {
        /// How many merges are to be found.
        merges: usize,
        /// Time since this stage began.
        elapsed: Duration,
        /// Whether all are found.
        done: bool,
    },
}

impl TrainProgress {
    /// What is being done and in which unit [`TrainProgress::done`] counts.
    #[must_use]
    pub fn stage(&self) -> &'static str {
        match self {
            Self::Reading { .. } => "reading text for the tokenizer (bytes)",
            Self::Merging { .. } => "training the tokenizer (seconds)",
        }
    }

    /// Bytes read, or seconds of merging.
    #[must_use]
    pub fn done(&self) -> u64 {
        match self {
            Self::Reading { bytes, .. } => *bytes,
            Self::Merging { elapsed, .. } => elapsed.as_secs(),
        }
    }

    /// Of how many; never known beforehand, as texts are a stream and the time depends on them.
    #[must_use]
    pub fn total(&self) -> Option<u64> {
        None
    }
}

/// A trained SentencePiece model.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainedModel {
    bytes: Vec<u8>,
    /// Documents it was trained on.
    pub documents: u64,
    /// Bytes of them.
    pub source_bytes: u64,
    /// Characters with a token of their own.
    pub n_characters: usize,
    /// Tokens of several characters.
    pub n_merges: usize,
}

impl TrainedModel {
    /// The bytes of the `.model` file.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Writes the `.model` file, whole or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        write_whole(path, &self.bytes)
    }

    /// The tokenizer that the file holds.
    ///
    /// # Errors
    /// Never for a model that [`train_bpe`] returned, unless memory is short.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        Tokenizer::from_bytes(self.bytes.clone(), Path::new("tokenizer.model"))
    }
}

/// Trains BPE on a stream of documents, on all cores of the current rayon pool.
///
/// The model has `<unk>` 0, `<s>` 1, `</s>` 2, 256 bytes, the merges by rank, and the characters;
/// byte fallback, identity normalisation and a dummy prefix, as LLaMA's own. Memory grows with the
/// number of distinct words (in scripts without spaces: stretches between punctuation).
///
/// # Errors
/// A setting out of range, an error of `texts`, no text, a vocabulary too small for the characters
/// ([`TokenizerError::VocabTooSmall`] says the minimum) or too large for the text
/// ([`TokenizerError::VocabTooLarge`] says the maximum).
///
/// ```
/// use caravan_tokenizer::{Encode, TrainConfig, train_bpe};
///
/// let text = "the cat and the hat\nthe cat sat".to_owned();
/// let config = TrainConfig { vocab_size: 280, ..TrainConfig::default() };
/// let trained = train_bpe(&config, [Ok::<_, std::io::Error>(text)].into_iter(), &mut |_| {})?;
/// let tokenizer = trained.tokenizer()?;
/// assert_eq!(tokenizer.vocab_size(), 280);
/// assert_eq!(tokenizer.decode(&tokenizer.encode("  the 猫\n")?)?, "  the 猫\n");
/// # Ok::<(), caravan_tokenizer::TokenizerError>(())
/// ```
pub fn train_bpe<E>(
    config: &TrainConfig,
    texts: impl Iterator<Item = std::result::Result<String, E>>,
    progress: &mut dyn FnMut(TrainProgress),
) -> Result<TrainedModel>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    check(config)?;
    let units = read(config, texts, progress)?;
    let alphabet = alphabet::of(&units, config.character_coverage);
    if alphabet.is_empty() {
        return Err(TokenizerError::NoText { documents: units.documents });
    }
    let minimum = N_SPECIAL + N_BYTES + alphabet.len();
    if config.vocab_size < minimum {
        return Err(TokenizerError::VocabTooSmall {
            vocab_size: config.vocab_size,
            minimum,
            n_characters: alphabet.len(),
        });
    }
    let wanted = config.vocab_size - minimum;
    let Units { counts, documents, bytes: source_bytes } = units;
    let words = alphabet::words(counts, &alphabet);
    let merges = merge(&words, &alphabet, wanted, config.max_piece_chars, progress)?;
    if merges.len() < wanted {
        return Err(TokenizerError::VocabTooLarge {
            vocab_size: config.vocab_size,
            maximum: minimum + merges.len(),
        });
    }
    let bytes = model::write(config, &merges, &alphabet);
    let (n_characters, n_merges) = (alphabet.len(), merges.len());
    Ok(TrainedModel { bytes, documents, source_bytes, n_characters, n_merges })
}

fn check(config: &TrainConfig) -> Result<()> {
    let bad =
        |name, found: String, expected| Err(TokenizerError::BadSetting { name, found, expected });
    // sentencepiece's own limits, so that the model can be trained further with it.
    if !(0.98..=1.0).contains(&config.character_coverage) {
        return bad("character_coverage", config.character_coverage.to_string(), "0.98 to 1");
    }
    if !(1..=512).contains(&config.max_piece_chars) {
        return bad("max_piece_chars", config.max_piece_chars.to_string(), "1 to 512");
    }
    if config.vocab_size > 1 << 24 {
        // Scores are 32-bit floats, which count exactly up to here.
        return bad("vocab_size", config.vocab_size.to_string(), "at most 16777216");
    }
    Ok(())
}

fn read<E>(
    config: &TrainConfig,
    texts: impl Iterator<Item = std::result::Result<String, E>>,
    progress: &mut dyn FnMut(TrainProgress),
) -> Result<Units>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut units = Units::default();
    let mut batch: Vec<String> = Vec::new();
    let mut batch_bytes = 0;
    for text in texts {
        let text = text.map_err(|e| TokenizerError::Source(e.into()))?;
        batch_bytes += text.len();
        batch.push(text);
        if batch_bytes >= BATCH_BYTES {
            units.add(&batch, config.split_digits);
            batch.clear();
            batch_bytes = 0;
            progress(units.progress());
        }
    }
    units.add(&batch, config.split_digits);
    progress(units.progress());
    Ok(units)
}

/// Finds the merges, on a thread of its own so that progress goes on while the trainer works.
fn merge(
    words: &merges::Words,
    alphabet: &[char],
    wanted: usize,
    max_piece_chars: usize,
    progress: &mut dyn FnMut(TrainProgress),
) -> Result<Vec<String>> {
    merges::check_counts(words)?;
    let start = Instant::now();
    let find = || merges::find(words, alphabet, wanted, max_piece_chars);
    let found = if rayon::current_thread_index().is_some() {
        // A worker that waited would be missing in its pool, and might be its only one.
        find()
    } else {
        let (running, ended) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let trainer = scope.spawn(move || {
                let found = find();
                drop(running);
                found
            });
            while ended.recv_timeout(TICK) == Err(mpsc::RecvTimeoutError::Timeout) {
                let elapsed = start.elapsed();
                progress(TrainProgress::Merging { merges: wanted, elapsed, done: false });
            }
            trainer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }?;
    progress(TrainProgress::Merging { merges: wanted, elapsed: start.elapsed(), done: true });
    Ok(found)
}
