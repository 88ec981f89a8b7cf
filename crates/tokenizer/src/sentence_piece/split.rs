//! Cutting a long text where no token can reach across, so that the parts are encoded one by one,
//! on all cores, each distinct word once, with the ids of the whole.
//!
//! BPE merges two neighbours only if both together are a piece. Where no piece can span a boundary
//! nothing that happens on one side is felt on the other. Two boundaries can be told from the
//! vocabulary alone:
//! - *before a space after something else*, if no piece has a space mark after another character.
//!   The part behind it begins with the space; the library puts a dummy prefix before every text,
//!   so the space is left out and the prefix takes its place.
//! - *before a line end*, if no piece of several characters holds one. The prefix that the library
//!   puts before the part stays a token of its own and is dropped.
//!
//! A model for which this cannot be told (unigram, a normaliser that rewrites text, user-defined
//! pieces) is encoded whole.

use super::proto::{BPE, ModelProto, PieceType};

const MARK: char = '\u{2581}';

/// A part of a text as it is handed to the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch<'a> {
    pub(super) text: &'a str,
    /// The first id is the dummy prefix and belongs to no text.
    pub(super) drop_prefix: bool,
}

/// Where a model's texts may be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cuts {
    at_spaces: bool,
    at_line_ends: bool,
}

impl Cuts {
    /// The boundaries of a model; none if it has to see a text whole.
    pub(super) fn of(model: &ModelProto) -> Option<Self> {
        let trainer = model.trainer();
        let normalizer = model.normalizer();
        let plain = trainer.model_type == Some(BPE)
            && trainer.treat_whitespace_as_suffix != Some(true)
            && normalizer.charsmap().is_empty()
            && normalizer.dummy_prefix()
            && normalizer.escapes_spaces()
            && !normalizer.removes_spaces();
        if !plain || model.pieces.iter().any(|p| p.kind() == PieceType::UserDefined) {
            return None;
        }
        let merged = || {
            let pieces = model.pieces.iter().map(|p| (p.kind(), p.text()));
            pieces.filter_map(|(kind, text)| {
                matches!(kind, PieceType::Normal | PieceType::Unused).then_some(text)
            })
        };
        let space_inside = |text: &str| text.trim_start_matches(MARK).contains(MARK);
        let line_end_inside = |text: &str| text.len() > 1 && text.contains('\n');
        let prefix_is_a_token =
            model.pieces.iter().any(|p| p.kind() == PieceType::Normal && p.text() == "\u{2581}");
        let cuts = Self {
            at_spaces: !merged().any(space_inside),
            at_line_ends: prefix_is_a_token && !merged().any(line_end_inside),
        };
        (cuts.at_spaces || cuts.at_line_ends).then_some(cuts)
    }

    /// All parts of a stretch, in order.
    pub(super) fn stretches(self, stretch: Stretch<'_>) -> impl Iterator<Item = Stretch<'_>> {
        self.parts(stretch, 1)
    }

    /// Parts of at least `size` bytes, except the last.
    pub(super) fn blocks(self, stretch: Stretch<'_>, size: usize) -> Vec<Stretch<'_>> {
        self.parts(stretch, size).collect()
    }

    fn parts(self, stretch: Stretch<'_>, size: usize) -> impl Iterator<Item = Stretch<'_>> {
        let mut rest = Some(stretch);
        std::iter::from_fn(move || {
            let Stretch { text, drop_prefix } = rest?;
            let Some((end, next, at_line_end)) = self.next_cut(text, size) else {
                return rest.take();
            };
            rest = Some(Stretch { text: &text[next..], drop_prefix: at_line_end });
            Some(Stretch { text: &text[..end], drop_prefix })
        })
    }

    /// The first boundary at `size` bytes or later: where the part ends, where the next one begins,
    /// and whether that is at a line end.
    fn next_cut(self, text: &str, size: usize) -> Option<(usize, usize, bool)> {
        let bytes = text.as_bytes();
        (size.max(1)..bytes.len()).find_map(|at| match bytes[at] {
            b'\n' if self.at_line_ends => Some((at, at, true)),
            // A space at the very end stays: the library gives nothing at all for an empty text.
            b' ' if self.at_spaces && at + 1 < bytes.len() && !ends_with_space(&bytes[..at]) => {
                Some((at, at + 1, false))
            }
            _ => None,
        })
    }
}

/// Whether the normalised text ends with a space mark: after a space, or the mark itself.
fn ends_with_space(bytes: &[u8]) -> bool {
    bytes.ends_with(b" ") || bytes.ends_with("\u{2581}".as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(cuts: Cuts, text: &str, size: usize) -> Vec<(&str, bool)> {
        let parts = cuts.parts(Stretch { text, drop_prefix: false }, size);
        parts.map(|s| (s.text, s.drop_prefix)).collect()
    }

    const BOTH: Cuts = Cuts { at_spaces: true, at_line_ends: true };

    #[test]
    fn cuts_are_before_spaces_and_line_ends() {
        assert_eq!(
            parts(BOTH, "a bc\nd  e\n\n f ", 1),
            [
                ("a", false),
                ("bc", false),
                ("\nd", true),
                (" e", false),
                ("\n", true),
                ("\n", true),
                ("f ", false)
            ]
        );
        assert_eq!(parts(BOTH, "a bc d", 2), [("a bc", false), ("d", false)]);
        assert_eq!(parts(BOTH, "x\u{2581} y", 1), [("x\u{2581} y", false)]);
        assert_eq!(parts(BOTH, " a", 1), [(" a", false)]);
    }

    #[test]
    fn a_boundary_that_is_not_allowed_is_not_used() {
        assert_eq!(
            parts(Cuts { at_spaces: false, ..BOTH }, "a b\nc", 1),
            [("a b", false), ("\nc", true)]
        );
        assert_eq!(
            parts(Cuts { at_line_ends: false, ..BOTH }, "a b\nc", 1),
            [("a", false), ("b\nc", false)]
        );
    }
}
