//! Cutting documents into smaller texts that stand by themselves: paragraphs or sentences.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use unicode_segmentation::UnicodeSegmentation as _;

use crate::{DatasetError, Document, Side};

/// What stands by itself in the shards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// A document of the source, whole.
    #[default]
    Document,
    /// What lies between blank lines.
    Paragraph,
    /// A sentence as Unicode bounds it (UAX #29, section 5), within a paragraph and a line.
    Sentence,
}

impl Unit {
    /// Its name, as it is written in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Document => "document",
            Self::Paragraph => "paragraph",
            Self::Sentence => "sentence",
        }
    }

    /// The pieces of a text, in order; together they are the text, byte for byte. White space belongs to the piece before
    /// it, at the beginning to the one behind it.
    pub fn pieces(self, text: &str) -> Vec<&str> {
        let ends: Vec<usize> = match self {
            Self::Document => Vec::new(),
            Self::Paragraph => paragraph_ends(text),
            Self::Sentence => {
                text.split_sentence_bound_indices().map(|(at, piece)| at + piece.len()).collect()
            }
        };
        let (mut pieces, mut start) = (Vec::new(), 0);
        for end in ends.into_iter().chain([text.len()]) {
            if end <= start || text[start..end].trim().is_empty() {
                continue;
            }
            let blank = text[end..].len() - text[end..].trim_start().len();
            pieces.push(&text[start..end + blank]);
            start = end + blank;
        }
        if pieces.is_empty() && !text.is_empty() {
            pieces.push(text);
        }
        pieces
    }
}

/// Where lines end that a blank line follows.
fn paragraph_ends(text: &str) -> Vec<usize> {
    let (mut ends, mut at) = (Vec::new(), 0);
    for line in text.split_inclusive('\n') {
        at += line.len();
        if line.trim().is_empty() {
            ends.push(at);
        }
    }
    ends
}

/// Documents cut into units, each with the origin of its document.
pub(crate) struct Pieces<I> {
    documents: I,
    unit: Unit,
    ready: VecDeque<(Side, Document)>,
}

impl<I> Pieces<I> {
    pub(crate) fn new(documents: I, unit: Unit) -> Self {
        Self { documents, unit, ready: VecDeque::new() }
    }

    /// What is cut.
    pub(crate) fn documents(&self) -> &I {
        &self.documents
    }
}

impl<I: Iterator<Item = Result<(Side, Document), DatasetError>>> Iterator for Pieces<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Some(Ok(piece));
            }
            let (side, document) = match self.documents.next()? {
                Ok(found) => found,
                Err(error) => return Some(Err(error)),
            };
            if self.unit == Unit::Document {
                return Some(Ok((side, document)));
            }
            let piece = |text: &str| {
                let (source, origin) = (document.source, document.origin.clone());
                (side, Document { text: text.to_owned(), source, origin })
            };
            self.ready.extend(self.unit.pieces(&document.text).into_iter().map(piece));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sentences_and_paragraphs_end_where_people_see_it() {
        let text =
            "A fox ran. It was red!\n\n  \nWas it? \u{201c}Yes.\u{201d} So it was.\nA line\n";
        assert_eq!(
            Unit::Sentence.pieces(text),
            [
                "A fox ran. ",
                "It was red!\n\n  \n",
                "Was it? ",
                "\u{201c}Yes.\u{201d} ",
                "So it was.\n",
                "A line\n"
            ]
        );
        let [first, second] = Unit::Paragraph.pieces(text)[..] else { panic!("two paragraphs") };
        assert_eq!(first, "A fox ran. It was red!\n\n  \n");
        assert!(second.starts_with("Was it?"));
        assert_eq!(Unit::Document.pieces(text), [text]);
        // Without spaces, in scripts that have their own marks.
        assert_eq!(
            Unit::Sentence.pieces("狐狸跑了。它是红的！真的吗？是。"),
            ["狐狸跑了。", "它是红的！", "真的吗？", "是。"]
        );
        assert_eq!(Unit::Paragraph.pieces("\n\na\n\n\n\nb"), ["\n\na\n\n\n\n", "b"]);
        assert!(Unit::Sentence.pieces("").is_empty());
    }

    proptest! {
        #[test]
        fn pieces_are_the_text_and_none_is_blank(text in "[ab .!?\n\r\u{3002}\u{2029}]{0,60}") {
            for unit in [Unit::Document, Unit::Paragraph, Unit::Sentence] {
                let pieces = unit.pieces(&text);
                prop_assert_eq!(pieces.concat(), text.as_str());
                if !text.trim().is_empty() {
                    prop_assert!(pieces.iter().all(|piece| !piece.trim().is_empty()));
                }
            }
        }
    }
}
