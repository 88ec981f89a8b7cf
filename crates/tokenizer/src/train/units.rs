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
const MARK: char = '\u{2581}';

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
        let lines = texts.par_iter().flat_map(|text| {
            // Only the first line begins where the text begins.
            text.par_split('\n').map(move |line| (line, std::ptr::eq(line.as_ptr(), text.as_ptr())))
        });
        let batch = lines
            .fold(AHashMap::new, |mut counts: AHashMap<CompactString, u64>, (line, first)| {
                for_each_unit(line, first, split_digits, &mut |unit, n| {
                    if let Some(count) = counts.get_mut(unit) {
                        *count += n;
                    } else {
                        counts.insert(CompactString::from(unit), n);
                    }
                });
                counts
            })
            .reduce(
                AHashMap::new,
                |a, b| {
                    if a.len() < b.len() { merged(b, a) } else { merged(a, b) }
                },
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

/// Gives every unit of a line with its weight, spaces as marks.
///
/// SentencePiece puts a mark before every text, so a line has one if it is a text of its own or the
/// first of a document, and none inside a document. sentencepiece's trainer knows lines alone, and
/// then spends two or three tokens on the first word of every line of a document. Here both count:
/// the first word of a line that is not the first, once with and once without the mark; all else
/// twice.
///
/// A tab is a unit of its own, so that it counts as a character.
fn for_each_unit(line: &str, first: bool, split_digits: bool, give: &mut dyn FnMut(&str, u64)) {
    if line.is_empty() {
        return;
    }
    let (word, rest) = line.split_at(line.find([' ', MARK]).unwrap_or(line.len()));
    let mut unit = Unit::new(if first { 2 } else { 1 }, give);
    unit.push(MARK);
    unit.text(word, split_digits);
    if !first {
        unit.text(word, split_digits);
    }
    unit.weight = 2;
    unit.text(rest, split_digits);
}

/// A unit that grows.
struct Unit<'a> {
    text: String,
    n_chars: usize,
    /// Of the last character that had one.
    script: Option<Script>,
    weight: u64,
    give: &'a mut dyn FnMut(&str, u64),
}

impl<'a> Unit<'a> {
    fn new(weight: u64, give: &'a mut dyn FnMut(&str, u64)) -> Self {
        Self { text: String::with_capacity(64), n_chars: 0, script: None, weight, give }
    }

    /// Takes a text and ends its last unit.
    fn text(&mut self, text: &str, split_digits: bool) {
        let mut at = 0;
        while let Some(c) = text[at..].chars().next() {
            if c == '<'
                && let Some(len) = special_len(&text[at..])
            {
                // The name of a special token is no text to learn from; it stands as a tab.
                self.alone('\t');
                at += len;
                continue;
            }
            at += c.len_utf8();
            match c {
                ' ' | MARK => {
                    self.end();
                    self.push(MARK);
                }
                '\t' => self.alone(c),
                '0'..='9' | '\u{FF10}'..='\u{FF19}' if split_digits => self.alone(c),
                _ => self.letter(c),
            }
        }
        self.end();
    }

    fn push(&mut self, c: char) {
        self.text.push(c);
        self.n_chars += 1;
    }

    fn end(&mut self) {
        if !self.text.is_empty() {
            (self.give)(&self.text, self.weight);
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

    fn weighed(line: &str, first: bool) -> Vec<(String, u64)> {
        let mut units = Vec::new();
        for_each_unit(line, first, true, &mut |unit, n| units.push((unit.replace(MARK, "_"), n)));
        units
    }

    fn units(line: &str) -> Vec<String> {
        weighed(line, true).into_iter().map(|(unit, _)| unit).collect()
    }

    #[test]
    fn units_end_at_spaces_scripts_digits_and_tabs() {
        assert_eq!(units(""), [""; 0]);
        assert_eq!(units("the  cat"), ["_the", "_", "_cat"]);
        assert_eq!(units("don't 12a"), ["_don", "'", "t", "_", "1", "2", "a"]);
        assert_eq!(units("a\tb"), ["_a", "\t", "b"]);
        assert_eq!(units("吾輩はネコー、である"), ["_吾輩はネコー", "、", "である"]);
        assert_eq!(units("e\u{301}o"), ["_e\u{301}o"]);
        assert_eq!(
            units("a<unk>b<s><0x0A><0x0a>"),
            ["_a", "\t", "b", "\t", "\t", "<", "0", "x", "0", "a", ">"]
        );
        let mut digits = Vec::new();
        for_each_unit("12a", true, false, &mut |unit, _| digits.push(unit.replace(MARK, "_")));
        assert_eq!(digits, ["_12", "a"]);
    }

    #[test]
    fn lines_count_as_texts_and_as_parts_of_a_document() {
        let weighed = |line, first| {
            let units = weighed(line, first).into_iter();
            units.map(|(unit, n)| format!("{unit} {n}")).collect::<Vec<_>>()
        };
        assert_eq!(weighed("ab, cd", true), ["_ab 2", ", 2", "_cd 2"]);
        assert_eq!(weighed("ab, cd", false), ["_ab 1", ", 1", "ab 1", ", 1", "_cd 2"]);
        assert_eq!(weighed(" ab", false), ["_ 1", "_ab 2"]);
    }

    #[test]
    fn every_text_has_one_first_line() {
        let mut counted = Units::default();
        counted.add(&["ab\nab\n".to_owned(), "ab".to_owned()], true);
        let count = |unit: &str| counted.counts.get(unit).copied();
        assert_eq!((count("\u{2581}ab"), count("ab")), (Some(5), Some(1)));
    }

    #[test]
    fn long_stretches_are_cut() {
        let lens: Vec<usize> = units(&"a".repeat(600)).iter().map(|u| u.chars().count()).collect();
        assert_eq!(lens, [256, 256, 89]);
    }
}
