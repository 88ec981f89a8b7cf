//! The merges, found by the BPE trainer of `tokenizers`.

use ahash::AHashMap;
use compact_str::CompactString;
use tokenizers::models::bpe::{BPE, BpeTrainer};

use crate::error::{Result, TokenizerError};

/// Distinct words and how often they occur.
pub(super) type Words = AHashMap<CompactString, u64>;

/// The trainer counts pairs in this type's range.
const MAX_PAIR_COUNT: u64 = i32::MAX as u64;

/// Refuses counts at which the trainer would overflow. A pair of merged tokens never occurs more
/// often than one of the pairs of characters it was made from.
pub(super) fn check_counts(words: &Words) -> Result<()> {
    check_counts_up_to(words, MAX_PAIR_COUNT)
}

fn check_counts_up_to(words: &Words, limit: u64) -> Result<()> {
    let mut counts: AHashMap<(char, char), u64> = AHashMap::new();
    for (word, count) in words {
        for pair in word.chars().zip(word.chars().skip(1)) {
            *counts.entry(pair).or_default() += count;
        }
    }
    let most = counts.into_iter().max_by_key(|(pair, count)| (*count, *pair));
    match most {
        Some(((a, b), count)) if count > limit => {
            Err(TokenizerError::TooMuchText { pair: format!("{a}{b}"), count, limit })
        }
        _ => Ok(()),
    }
}

/// Up to `wanted` pieces of several characters, the most frequent merge first; fewer if the words
/// have no more.
pub(super) fn find(
    words: &Words,
    alphabet: &[char],
    wanted: usize,
    max_piece_chars: usize,
) -> Result<Vec<String>> {
    let trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(alphabet.len() + wanted)
        .initial_alphabet(alphabet.iter().copied().collect())
        // The trainer makes pieces shorter than this, not as long as this.
        .max_token_length(Some(max_piece_chars + 1))
        .build();
    let mut model = BPE::default();
    trainer
        .do_train(words, &mut model)
        .map_err(|source| TokenizerError::Engine { engine: "the BPE trainer", source })?;
    // Ids are given in order: characters first, then each merge as it is found.
    let mut pieces: Vec<(u32, String)> =
        model.get_vocab().into_iter().map(|(piece, id)| (id, piece)).collect();
    pieces.sort_unstable();
    Ok(pieces.into_iter().skip(alphabet.len()).map(|(_, piece)| piece).collect())
}
