//! Counting what pieces may be made from.
//!
//! A unit is a stretch that no piece can reach beyond. The rules are those that sentencepiece's
//! trainer checks on every candidate piece (`TrainerInterface::IsValidSentencePiece`), applied
//! beforehand: a candidate is valid exactly if it lies within a unit.

use ahash::AHashMap;
use compact_str::CompactString;
use rayon::prelude::*;
use unicode_script::{Script, UnicodeScript};

use super::TrainProgress;

/// SentencePiece's mark for a space.
pub(super) const MARK: char = '\u{2581}';

/// Longer stretches of one script are cut: the trainer's time grows with the square of their
/// length. A unit of this size is 16 times the longest piece.
const MAX_UNIT_CHARS: usize = 256;

/// Distinct units and how often they occur.
#[derive(Debug, Default)]
pub(super) struct Units {
    pub(super) counts: AHashMap<CompactString, u64>,
    pub(super) documents: u64,
    pub(super) bytes: u64,
}

impl Units {
    /// Counts texts on all cores. Sums do not depend on their order.
    pub(super) fn add(&mut self, texts: &[String], split_digits: bool) {
        let lines = texts.par_iter().flat_map(|text| text.par_split('\n'));
        let batch = lines
            .fold(AHashMap::new, |mut counts: AHashMap<CompactString, u64>, line| {
                for_each_unit(line, split_digits, &mut |unit| match counts.get_mut(unit) {
                    Some(count) => *count += 1,
                    None => {
                        counts.insert(CompactString::from(unit), 1);
                    }
                });
                counts
            })
            .reduce(
                AHashMap::new,
                |a, b| if a.len() < b.len() { merged(b, a) } else { merged(a, b) },
            );
        self.documents += texts.len() as u64;
        self.bytes += texts.iter().map(|text| text.len() as u64).sum::<u64>();
        self.counts = merged(std::mem::take(&mut self.counts), batch);
    }

    pub(super) fn progress(&self) -> TrainProgress {
        TrainProgress::Reading {
            documents: self.documents,
            bytes: self.bytes,
            distinct: self.counts.len(),
        }
    }
}

fn merged(
    mut into: AHashMap<CompactString, u64>,
    from: AHashMap<CompactString, u64>,
) -> AHashMap<CompactString, u64> {
    for (unit, count) in from {
        *into.entry(unit).or_default() += count;
    }
    into
}

/// Gives every unit of a line, with spaces as marks. A line begins with a mark, as every text that
/// SentencePiece encodes; a tab is a unit of its own, so that it counts as a character.
pub(super) fn for_each_unit(line: &str, split_digits: bool, give: &mut dyn FnMut(&str)) {
    if line.is_empty() {
        return;
    }
    let mut unit = Unit { text: String::with_capacity(64), n_chars: 0, script: None, give };
    unit.push(MARK);
    let mut at = 0;
    while let Some(c) = line[at..].chars().next() {
        if c == '<'
            && let Some(len) = special_len(&line[at..])
        {
            // The name of a special token is no text to learn from; it stands as a tab.
            unit.alone('\t');
            at += len;
            continue;
        }
        at += c.len_utf8();
        match c {
            ' ' | MARK => {
                unit.end();
                unit.push(MARK);
            }
            '\t' => unit.alone(c),
            '0'..='9' | '\u{FF10}'..='\u{FF19}' if split_digits => unit.alone(c),
            _ => unit.letter(c),
        }
    }
    unit.end();
}

/// A unit that grows.
struct Unit<'a> {
    text: String,
    n_chars: usize,
    /// Of the last character that had one.
    script: Option<Script>,
    give: &'a mut dyn FnMut(&str),
}

impl Unit<'_> {
    fn push(&mut self, c: char) {
        self.text.push(c);
        self.n_chars += 1;
    }

    fn end(&mut self) {
        if !self.text.is_empty() {
            (self.give)(&self.text);
        }
        self.text.clear();
        self.n_chars = 0;
        self.script = None;
    }

    fn alone(&mut self, c: char) {
        self.end();
        self.push(c);
        self.end();
    }

    fn letter(&mut self, c: char) {
        let script = script(c).or(self.script);
        let changes = self.script.is_some() && self.script != script;
        if changes || self.n_chars == MAX_UNIT_CHARS {
            self.end();
        }
        self.push(c);
        self.script = script;
    }
}

/// The script for the purpose of pieces: kana belong to Han; marks that take the script of what is
/// before them have none.
fn script(c: char) -> Option<Script> {
    if c.is_ascii_alphabetic() {
        return Some(Script::Latin);
    }
    match c.script() {
        // Long vowel mark, which Unicode counts as common.
        _ if c == '\u{30FC}' => Some(Script::Han),
        Script::Hiragana | Script::Katakana => Some(Script::Han),
        Script::Inherited => None,
        Script::Unknown => Some(Script::Common),
        script => Some(script),
    }
}

/// The length of a special token's name at the start of a text: `<unk>`, `<s>`, `</s>`, `<0x0A>`.
fn special_len(text: &str) -> Option<usize> {
    for name in ["<unk>", "<s>", "</s>"] {
        if text.starts_with(name) {
            return Some(name.len());
        }
    }
    let hex = text.strip_prefix("<0x")?.as_bytes();
    let digit = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
    (hex.len() >= 3 && digit(hex[0]) && digit(hex[1]) && hex[2] == b'>').then_some(6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(line: &str, split_digits: bool) -> Vec<String> {
        let mut units = Vec::new();
        for_each_unit(line, split_digits, &mut |unit| units.push(unit.replace(MARK, "_")));
        units
    }

    #[test]
    fn units_end_at_spaces_scripts_digits_and_tabs() {
        assert_eq!(units("", true), [""; 0]);
        assert_eq!(units("the  cat", true), ["_the", "_", "_cat"]);
        assert_eq!(units("don't 12a", true), ["_don", "'", "t", "_", "1", "2", "a"]);
        assert_eq!(units("12a", false), ["_12", "a"]);
        assert_eq!(units("a\tb", true), ["_a", "\t", "b"]);
        assert_eq!(units("吾輩はネコー、である", true), ["_吾輩はネコー", "、", "である"]);
        assert_eq!(units("e\u{301}o", true), ["_e\u{301}o"]);
        assert_eq!(
            units("a<unk>b<s><0x0A><0x0a>", true),
            ["_a", "\t", "b", "\t", "\t", "<", "0", "x", "0", "a", ">"]
        );
    }

    #[test]
    fn long_stretches_are_cut() {
        let lens: Vec<usize> =
            units(&"a".repeat(600), true).iter().map(|u| u.chars().count()).collect();
        assert_eq!(lens, [256, 256, 89]);
    }
}
