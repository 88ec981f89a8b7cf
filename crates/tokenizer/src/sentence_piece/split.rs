//! Cutting a long text where no token can reach across, so that the parts are encoded one by one,
//! on all cores, each distinct part once, with the ids of the whole.
//!
//! BPE merges two neighbours only if both together are a piece. Where the two characters around a
//! boundary stand beside each other in no piece, no merge can span it, and nothing that happens on
//! one side is felt on the other. The library puts a dummy prefix (a space mark) before every text
//! that it is given, so a part must begin in one of two ways:
//! - with a space, which is left out: the prefix takes its place;
//! - with a character that no piece has after a space mark: the prefix stays a token of its own,
//!   which is dropped.
//!
//! A model for which this cannot be told (unigram, a normaliser that rewrites text, user-defined
//! pieces, no byte fallback) is encoded whole.

use ahash::AHashSet;

use super::proto::{BPE, ModelProto, PieceType};

const MARK: char = '\u{2581}';

/// A part of a text as it is handed to the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stretch<'a> {
    pub(super) text: &'a str,
    /// The first id is the dummy prefix and belongs to no text.
    pub(super) drop_prefix: bool,
}

/// Where a model's texts may be cut.
#[derive(Debug)]
pub(super) struct Cuts {
    /// Characters that stand beside each other in a piece.
    pairs: AHashSet<(char, char)>,
    /// The same for ASCII, with the space for its mark: a bit for each second character.
    ascii: [u128; 128],
}

impl Cuts {
    /// The boundaries of a model; none if it has to see a text whole.
    pub(super) fn of(model: &ModelProto) -> Option<Self> {
        let trainer = model.trainer();
        let normalizer = model.normalizer();
        let plain = trainer.model_type == Some(BPE)
            && trainer.byte_fallback == Some(true)
            && trainer.treat_whitespace_as_suffix != Some(true)
            && normalizer.charsmap().is_empty()
            && normalizer.dummy_prefix()
            && normalizer.escapes_spaces()
            && !normalizer.removes_spaces();
        let has = |found: &dyn Fn(PieceType, &str) -> bool| {
            model.pieces.iter().any(|p| found(p.kind(), p.text()))
        };
        let prefix_is_a_token = has(&|kind, text| kind == PieceType::Normal && text == "\u{2581}");
        let user_defined = has(&|kind, _| kind == PieceType::UserDefined);
        if !plain || !prefix_is_a_token || user_defined {
            return None;
        }
        let texts = model.pieces.iter().filter_map(|piece| {
            let merged = matches!(piece.kind(), PieceType::Normal | PieceType::Unused);
            merged.then(|| piece.text())
        });
        Some(Self::of_pieces(texts))
    }

    fn of_pieces<'a>(pieces: impl Iterator<Item = &'a str>) -> Self {
        let pairs: AHashSet<(char, char)> =
            pieces.flat_map(|text| text.chars().zip(text.chars().skip(1))).collect();
        let mut ascii = [0; 128];
        for (a, b) in &pairs {
            if let (Some(a), Some(b)) = (slot(*a), slot(*b)) {
                ascii[a] |= 1 << b;
            }
        }
        Self { pairs, ascii }
    }

    /// Parts of at least `size` bytes, except the last, in order.
    pub(super) fn parts<'a>(
        &self,
        whole: Stretch<'a>,
        size: usize,
    ) -> impl Iterator<Item = Stretch<'a>> {
        let mut rest = Some(whole);
        std::iter::from_fn(move || {
            let Stretch { text, drop_prefix } = rest?;
            let Some((end, next, drop_next)) = self.next_cut(text, size) else {
                return rest.take();
            };
            rest = Some(Stretch { text: &text[next..], drop_prefix: drop_next });
            Some(Stretch { text: &text[..end], drop_prefix })
        })
    }

    /// The first boundary at `size` bytes or later: where the part ends, where the next one begins,
    /// and whether that one's prefix is to be dropped.
    fn next_cut(&self, text: &str, size: usize) -> Option<(usize, usize, bool)> {
        // Begin one character earlier, which is the left side of the first boundary.
        let from = text.floor_char_boundary(size.saturating_sub(1));
        let mut chars = text[from..].char_indices();
        let mut before = chars.next()?.1;
        for (at, c) in chars {
            let at = from + at;
            if !self.joined(before, c) {
                // A space at the very end stays: the library gives nothing for an empty text.
                if c == ' ' && at + 1 < text.len() {
                    return Some((at, at + 1, false));
                }
                if c != ' ' && c != MARK && !self.joined(MARK, c) {
                    return Some((at, at, true));
                }
            }
            before = c;
        }
        None
    }

    /// Whether a piece can reach from one character to the next.
    fn joined(&self, a: char, b: char) -> bool {
        if let (Some(a), Some(b)) = (slot(a), slot(b)) {
            return self.ascii[a] >> b & 1 == 1;
        }
        let mark = |c| if c == ' ' { MARK } else { c };
        self.pairs.contains(&(mark(a), mark(b)))
    }
}

/// The place of a character in the ASCII table.
fn slot(c: char) -> Option<usize> {
    match c {
        MARK => Some(usize::from(b' ')),
        c if c.is_ascii() => Some(c as usize),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts<'a>(pieces: &[&str], text: &'a str, size: usize) -> Vec<(&'a str, bool)> {
        let cuts = Cuts::of_pieces(pieces.iter().copied());
        let parts = cuts.parts(Stretch { text, drop_prefix: false }, size);
        parts.map(|s| (s.text, s.drop_prefix)).collect()
    }

    #[test]
    fn cuts_are_where_no_piece_reaches_across() {
        let pieces = ["\u{2581}\u{2581}", "\u{2581}bc", "ef", "猫は", "\u{2581}d"];
        assert_eq!(
            parts(&pieces, "a bc\nd  ef", 1),
            [
                ("a", false),
                // `bc` is a piece, and `d` may follow a mark, so that it cannot begin a part.
                ("bc", false),
                ("\nd", true),
                // The first space of a run is the prefix, the second belongs to it.
                (" ", false),
                ("ef", true),
            ]
        );
        assert_eq!(
            parts(&pieces, "猫は猫は。", 1),
            [("猫は", false), ("猫は", true), ("。", true)]
        );
        assert_eq!(parts(&pieces, "", 1), [("", false)]);
    }

    #[test]
    fn parts_have_a_size() {
        assert_eq!(parts(&["bc"], "a bc d", 3), [("a bc", false), ("d", false)]);
        assert_eq!(parts(&[], "猫猫", 2), [("猫", false), ("猫", true)]);
    }

    #[test]
    fn a_last_space_and_a_mark_in_the_text_do_not_begin_a_part() {
        assert_eq!(parts(&[], "a ", 1), [("a ", false)]);
        assert_eq!(
            parts(&["\u{2581}\u{2581}"], "x\u{2581} y", 1),
            [("x\u{2581} ", false), ("y", true)]
        );
    }

    #[test]
    fn the_two_tables_agree() {
        let cuts = Cuts::of_pieces(["\u{2581}ab", "b\u{2581}"].into_iter());
        for (a, b) in [(' ', 'a'), ('a', 'b'), ('b', ' '), (' ', 'b'), ('b', 'a')] {
            let mark = |c| if c == ' ' { MARK } else { c };
            assert_eq!(cuts.joined(a, b), cuts.pairs.contains(&(mark(a), mark(b))), "{a}{b}");
        }
    }
}
