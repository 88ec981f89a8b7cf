//! Which characters get a token of their own.

use std::cmp::Reverse;
use std::collections::HashSet;

use ahash::AHashMap;
use compact_str::CompactString;

use super::merges::Words;
use super::units::Units;

/// The most frequent characters that together cover `coverage` of the text, most frequent first
/// (ties by code point), as sentencepiece chooses its required characters.
pub(super) fn of(units: &Units, coverage: f64) -> Vec<char> {
    let mut counts: AHashMap<char, u64> = AHashMap::new();
    for (unit, count) in &units.counts {
        for c in unit.chars() {
            *counts.entry(c).or_default() += count;
        }
    }
    // A piece with a NUL cannot be looked up by C++ consumers; it is written as a byte.
    counts.remove(&'\0');
    let total: u64 = counts.values().sum();
    let mut sorted: Vec<(char, u64)> = counts.into_iter().collect();
    sorted.sort_unstable_by_key(|(c, count)| (Reverse(*count), *c));
    let mut covered = 0;
    let mut alphabet = Vec::new();
    for (c, count) in sorted {
        if covered as f64 >= coverage * total as f64 {
            break;
        }
        covered += count;
        // A tab counts but is never a piece, so that it cannot be taken for a separator in
        // sentencepiece's vocabulary files.
        if c != '\t' {
            alphabet.push(c);
        }
    }
    alphabet
}

/// Units cut at characters outside the alphabet.
pub(super) fn words(units: AHashMap<CompactString, u64>, alphabet: &[char]) -> Words {
    let alphabet: HashSet<char> = alphabet.iter().copied().collect();
    let mut words = Words::with_capacity(units.len());
    for (unit, count) in units {
        if unit.chars().all(|c| alphabet.contains(&c)) {
            *words.entry(unit).or_default() += count;
            continue;
        }
        for word in unit.split(|c| !alphabet.contains(&c)).filter(|word| !word.is_empty()) {
            *words.entry(CompactString::from(word)).or_default() += count;
        }
    }
    words
}
