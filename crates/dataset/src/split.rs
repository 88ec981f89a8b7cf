//! Which documents train and which validate. One definition, for the tokenizer trainer and for the
//! shards.
//!
//! - A source with fewer than [`SMALL`] documents gives its last `val_fraction` of bytes, counted
//!   over all its documents one behind the other, to validation. The cut is made behind the first
//!   line end at or after that place (the end of a document counts as one); if nothing but the end
//!   of the source follows, behind the last line end before it; and in a source that is a single
//!   line, at a character. A document that holds the cut becomes two documents, one on each side.
//! - In a source with more, a document validates if the first eight bytes of the BLAKE3 of its
//!   text, as a fraction of 2^64, are below `val_fraction`.
//! - Equal texts always fall on the same side, over all sources: what a small source decided for a
//!   text holds for every other document with that text (validation before training). So no
//!   validation document is also trained on.
//! - Documents without any character but white space are dropped and counted.

use std::collections::HashSet;
use std::collections::vec_deque::{self, VecDeque};

use serde::{Deserialize, Serialize};

use crate::documents::{Documents, Place, documents_of};
use crate::{BuildConfig, DatasetError, Document, Side, Skipped, find_files};

/// From this many documents on, a source is split by the hash of its documents.
pub const SMALL: usize = 100;

/// Divides all documents of all sources, in order, into training and validation.
///
/// Holds up to 100 documents of each source in memory, as many as it takes to know whether the
/// source is small.
///
/// # Errors
/// Bad settings and missing files at once, as [`BuildConfig::validate`] and [`crate::find_files`]
/// say, and what is wrong in the first 100 documents of each source; later ones as items. A source
/// without documents is an error.
pub fn split_documents(config: &BuildConfig) -> Result<SplitDocuments, DatasetError> {
    config.validate()?;
    let mut sources = VecDeque::new();
    let mut reports = Vec::new();
    let mut decided = Decided::default();
    for (index, spec) in config.sources.iter().enumerate() {
        let files = find_files(spec)?;
        let mut report = SourceReport {
            files: files.files.len(),
            skipped: files.skipped.clone(),
            ..SourceReport::default()
        };
        let mut rest = documents_of(spec, index, files);
        let mut first = Vec::new();
        while first.len() < SMALL
            && let Some(document) = rest.next()
        {
            report.keep(document?, &mut first);
        }
        if first.is_empty() {
            let (paths, n_empty) = (spec.paths.join(" "), report.empty_documents);
            return Err(DatasetError::NoDocuments { index, paths, n_empty });
        }
        let first = if first.len() < SMALL {
            report.split = SplitRule::Tail;
            let mut cut = cut_tail(first, config.val_fraction);
            // Half of a document that was cut may be nothing but white space.
            cut.retain(|(_, document)| report.holds_text(document));
            decided.add(&cut);
            cut.into_iter().map(|(side, document)| (Some(side), document)).collect()
        } else {
            report.split = SplitRule::Hash;
            first.into_iter().map(|document| (None, document)).collect::<Vec<_>>()
        };
        sources.push_back(Source { index, first: VecDeque::from(first).into_iter(), rest });
        reports.push(report);
    }
    Ok(SplitDocuments { val_below: threshold(config.val_fraction), sources, decided, reports })
}

/// The stream of [`split_documents`]; when it has ended, [`SplitDocuments::reports`] are complete.
pub struct SplitDocuments {
    val_below: u128,
    sources: VecDeque<Source>,
    decided: Decided,
    reports: Vec<SourceReport>,
}

impl std::fmt::Debug for SplitDocuments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SplitDocuments").field("reports", &self.reports).finish_non_exhaustive()
    }
}

/// How a source was divided.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SplitRule {
    /// The last bytes validate: fewer than 100 documents.
    #[default]
    Tail,
    /// Each document by the hash of its text.
    Hash,
}

/// What was found in a source.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceReport {
    /// Files that were read.
    pub files: usize,
    /// Files that were not, and why.
    pub skipped: Vec<Skipped>,
    /// Documents that were dropped because they hold only white space.
    pub empty_documents: u64,
    /// How it was divided.
    pub split: SplitRule,
    /// Documents for training.
    pub train_documents: u64,
    /// Their bytes of text.
    pub train_bytes: u64,
    /// Documents for validation.
    pub val_documents: u64,
    /// Their bytes of text.
    pub val_bytes: u64,
}

impl SourceReport {
    fn keep(&mut self, document: Document, into: &mut Vec<Document>) {
        if self.holds_text(&document) {
            into.push(document);
        }
    }

    fn holds_text(&mut self, document: &Document) -> bool {
        let empty = document.text.trim().is_empty();
        self.empty_documents += u64::from(empty);
        !empty
    }

    fn count(&mut self, side: Side, document: &Document) {
        let (documents, bytes) = match side {
            Side::Train => (&mut self.train_documents, &mut self.train_bytes),
            Side::Val => (&mut self.val_documents, &mut self.val_bytes),
        };
        *documents += 1;
        *bytes += document.text.len() as u64;
    }
}

impl SplitDocuments {
    /// One report per source, of what has been streamed so far.
    pub fn reports(&self) -> &[SourceReport] {
        &self.reports
    }

    fn side(&self, preset: Option<Side>, document: &Document) -> Side {
        if self.val_below == 0 {
            return Side::Train;
        }
        let hash = text_hash(&document.text);
        match preset {
            _ if self.decided.val.contains(&hash) => Side::Val,
            _ if self.decided.train.contains(&hash) => Side::Train,
            Some(side) => side,
            None if u128::from(first_u64(&hash)) < self.val_below => Side::Val,
            None => Side::Train,
        }
    }
}

impl Iterator for SplitDocuments {
    type Item = Result<(Side, Document), DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let source = self.sources.front_mut()?;
            let report = &mut self.reports[source.index];
            let (preset, document) = match source.first.next() {
                Some(first) => first,
                None => match source.rest.next() {
                    Some(Ok(document)) if !report.holds_text(&document) => continue,
                    Some(Ok(document)) => (None, document),
                    Some(Err(error)) => {
                        self.sources.clear();
                        return Some(Err(error));
                    }
                    None => {
                        self.sources.pop_front();
                        continue;
                    }
                },
            };
            let side = self.side(preset, &document);
            self.reports[document.source].count(side, &document);
            return Some(Ok((side, document)));
        }
    }
}

struct Source {
    index: usize,
    /// Read ahead; the side is known if the source is small.
    first: vec_deque::IntoIter<(Option<Side>, Document)>,
    rest: Documents,
}

/// What the small sources decided, by the hash of the text.
#[derive(Default)]
struct Decided {
    train: HashSet<[u8; 32]>,
    val: HashSet<[u8; 32]>,
}

impl Decided {
    fn add(&mut self, documents: &[(Side, Document)]) {
        for (side, document) in documents {
            let set = if *side == Side::Train { &mut self.train } else { &mut self.val };
            set.insert(text_hash(&document.text));
        }
    }
}

/// `val_fraction` of 2^64: `f64` products with powers of two are exact, so this is the same
/// everywhere.
fn threshold(val_fraction: f64) -> u128 {
    (val_fraction * 2f64.powi(64)) as u128
}

fn text_hash(text: &str) -> [u8; 32] {
    *blake3::hash(text.as_bytes()).as_bytes()
}

fn first_u64(hash: &[u8; 32]) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    u64::from_le_bytes(first)
}

/// Divides the documents of a small source by the rule at the top of this file.
fn cut_tail(documents: Vec<Document>, val_fraction: f64) -> Vec<(Side, Document)> {
    let texts: Vec<&str> = documents.iter().map(|d| d.text.as_str()).collect();
    let cut = tail_cut(&texts, val_fraction);
    let mut start = 0;
    let mut sides = Vec::new();
    for mut document in documents {
        let len = document.text.len();
        let train = cut.saturating_sub(start).min(len);
        start += len;
        if train == 0 {
            sides.push((Side::Val, document));
        } else if train == len {
            sides.push((Side::Train, document));
        } else {
            let text = document.text.split_off(train);
            let mut tail = Document { text, ..document.clone() };
            if tail.origin.place == Place::Whole {
                tail.origin.place = Place::Line(1 + n_lines(&document.text));
            }
            sides.extend([(Side::Train, document), (Side::Val, tail)]);
        }
    }
    sides
}

fn n_lines(text: &str) -> u64 {
    text.bytes().filter(|&b| b == b'\n').count() as u64
}

/// Bytes of the concatenated texts that train.
fn tail_cut(texts: &[&str], val_fraction: f64) -> usize {
    let total: usize = texts.iter().map(|t| t.len()).sum();
    if val_fraction == 0.0 {
        return total;
    }
    let n_val = ((total as f64 * val_fraction) as usize).max(1);
    let wanted = total - n_val.min(total);
    // Places where a cut falls between lines, strictly inside the source.
    let (mut before, mut start) = (0, 0);
    for text in texts {
        let ends = text.bytes().enumerate().filter(|&(_, b)| b == b'\n').map(|(i, _)| i + 1);
        for end in ends.chain([text.len()]).map(|end| start + end) {
            if end >= wanted && end < total && end > 0 {
                return end;
            }
            if end < wanted {
                before = end;
            }
        }
        start += text.len();
    }
    if before > 0 {
        return before;
    }
    // One line: at a character, and not at all if there is only one.
    let text = texts[0];
    let at = (wanted.max(1)..total).find(|&i| text.is_char_boundary(i));
    at.or_else(|| (1..wanted).rev().find(|&i| text.is_char_boundary(i))).unwrap_or(total)
}

#[cfg(test)]
#[path = "split/tests.rs"]
mod tests;
