//! Decoding one id at a time: text leaves as soon as it is whole.
//!
//! A token may hold a part of a character (byte-fallback and byte-level pieces), and whether a
//! leading space is text depends on what was before. The concatenation of all that a stream gives
//! equals the decoding of all its ids at once, which for most tokenizers *is* this code.

use std::fmt::Debug;

use crate::encode::{Encode, unknown_id};
use crate::error::Result;

/// A decoder that is fed one id at a time.
///
/// ```
/// use caravan_tokenizer::{ByteTokenizer, DecodeStream};
///
/// let tokenizer = ByteTokenizer::new();
/// let mut stream = DecodeStream::new(&tokenizer);
/// assert_eq!(stream.push(195)?, None); // the first half of a character
/// assert_eq!(stream.push(169)?.as_deref(), Some("é"));
/// assert_eq!(stream.finish()?, None); // nothing was left over
/// # Ok::<(), caravan_tokenizer::TokenizerError>(())
/// ```
#[derive(Debug)]
pub struct DecodeStream<'a> {
    mode: Mode<'a>,
    n_pushed: usize,
}

impl<'a> DecodeStream<'a> {
    /// A stream at the beginning of a text.
    #[must_use]
    pub fn new(tokenizer: &'a dyn Encode) -> Self {
        tokenizer.decode_stream()
    }

    /// Takes the next id; returns the text that became whole with it, never an empty one.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownId`](crate::TokenizerError::UnknownId) for an id that names no
    /// token; the stream stays usable.
    pub fn push(&mut self, id: u32) -> Result<Option<String>> {
        let mut out = String::new();
        match &mut self.mode {
            Mode::Pieces(state) => state.push(id, self.n_pushed, &mut out)?,
            Mode::Whole(state) => state.push(id, &mut out)?,
        }
        self.n_pushed += 1;
        Ok((!out.is_empty()).then_some(out))
    }

    /// Ends the text: what was held back comes out, bytes that never became a character as U+FFFD.
    ///
    /// # Errors
    /// When the tokenizer cannot decode the ids as a whole.
    pub fn finish(mut self) -> Result<Option<String>> {
        let mut out = String::new();
        match &mut self.mode {
            Mode::Pieces(state) => state.end_of_bytes(&mut out),
            Mode::Whole(state) => state.finish(&mut out)?,
        }
        Ok((!out.is_empty()).then_some(out))
    }

    /// A stream over a table of pieces.
    pub(crate) fn of_pieces(pieces: &'a dyn Pieces, rules: Rules) -> Self {
        let state =
            PieceState { pieces, rules, pending: Vec::new(), prefix: PrefixState::Expected };
        Self { mode: Mode::Pieces(state), n_pushed: 0 }
    }

    /// A stream over a tokenizer that can only decode as a whole. Each id decodes everything so far
    /// again, and text that may still change is held back.
    #[cfg(any(test, feature = "huggingface", feature = "sentencepiece"))]
    pub(crate) fn of_whole(decode: &'a dyn DecodeWhole) -> Self {
        let state = WholeState { decode, ids: Vec::new(), emitted: String::new() };
        Self { mode: Mode::Whole(state), n_pushed: 0 }
    }

    /// Decodes ids at once.
    pub(crate) fn all(mut self, ids: &[u32]) -> Result<String> {
        let mut out = String::with_capacity(4 * ids.len());
        for (position, id) in ids.iter().enumerate() {
            match &mut self.mode {
                Mode::Pieces(state) => state.push(*id, position, &mut out)?,
                Mode::Whole(state) => return state.decode.decode_whole(ids),
            }
        }
        out.push_str(&self.finish()?.unwrap_or_default());
        Ok(out)
    }
}

/// What one token stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// Whole characters; `marked` if the text begins with a space that a dummy prefix may have made.
    #[cfg_attr(not(feature = "sentencepiece"), allow(dead_code))]
    Text { text: &'a str, marked: bool },
    /// Bytes that make characters only together with their neighbours.
    Bytes(&'a [u8]),
    /// A control token.
    Silent,
}

/// A vocabulary as a table.
pub(crate) trait Pieces: Debug + Send + Sync {
    /// Ids are below this.
    fn n_ids(&self) -> usize;
    /// The piece of an id; none if the id names no token.
    fn piece(&self, id: u32) -> Option<Piece<'_>>;
}

/// A tokenizer that decodes only as a whole.
pub(crate) trait DecodeWhole: Debug + Send + Sync {
    /// The text of all ids.
    fn decode_whole(&self, ids: &[u32]) -> Result<String>;
}

/// How bytes that are no UTF-8 are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InvalidBytes {
    /// One U+FFFD for each byte, as SentencePiece does.
    #[cfg_attr(not(feature = "sentencepiece"), allow(dead_code))]
    Each,
    /// One U+FFFD for each maximal subpart, as Rust's `String::from_utf8_lossy` does.
    Maximal,
}

/// What happens to the space at the beginning of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prefix {
    /// It is text.
    Keep,
    /// The first one is the dummy prefix and is dropped.
    #[cfg_attr(not(feature = "sentencepiece"), allow(dead_code))]
    DropOne,
    /// All are dropped, one for each piece, until there is text.
    #[cfg_attr(not(feature = "sentencepiece"), allow(dead_code))]
    DropAll,
}

/// How pieces become text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) invalid: InvalidBytes,
    pub(crate) prefix: Prefix,
}

#[derive(Debug)]
enum Mode<'a> {
    Pieces(PieceState<'a>),
    #[cfg_attr(
        not(any(test, feature = "huggingface", feature = "sentencepiece")),
        allow(dead_code)
    )]
    Whole(WholeState<'a>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PrefixState {
    Expected,
    Over,
}

#[derive(Debug)]
struct PieceState<'a> {
    pieces: &'a dyn Pieces,
    rules: Rules,
    /// Bytes of a character that is not whole yet: at most 3.
    pending: Vec<u8>,
    prefix: PrefixState,
}

impl PieceState<'_> {
    fn push(&mut self, id: u32, position: usize, out: &mut String) -> Result<()> {
        let piece =
            self.pieces.piece(id).ok_or_else(|| unknown_id(id, position, self.pieces.n_ids()))?;
        match piece {
            Piece::Bytes(bytes) => {
                let before = out.len();
                self.pending.extend_from_slice(bytes);
                self.whole_characters(out);
                self.prefix_over_if(out.len() > before);
            }
            Piece::Silent => {
                // SentencePiece ends a run of bytes at every other piece, a control token too; a
                // byte-level decoder never sees the control token.
                if self.rules.invalid == InvalidBytes::Each {
                    self.end_of_bytes(out);
                }
            }
            Piece::Text { text, marked } => {
                self.end_of_bytes(out);
                self.text(text, marked, out);
            }
        }
        Ok(())
    }

    fn text(&mut self, text: &str, marked: bool, out: &mut String) {
        let drop =
            marked && self.prefix == PrefixState::Expected && self.rules.prefix != Prefix::Keep;
        let text = if drop { &text[1..] } else { text };
        out.push_str(text);
        self.prefix_over_if(!text.is_empty() || (drop && self.rules.prefix == Prefix::DropOne));
    }

    fn prefix_over_if(&mut self, over: bool) {
        if over {
            self.prefix = PrefixState::Over;
        }
    }

    /// Moves whole characters, and bytes that can never become one, from `pending` to `out`.
    fn whole_characters(&mut self, out: &mut String) {
        let mut at = 0;
        while at < self.pending.len() {
            let rest = &self.pending[at..];
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    out.push_str(text);
                    at = self.pending.len();
                }
                Err(e) => {
                    let valid = e.valid_up_to();
                    out.push_str(std::str::from_utf8(&rest[..valid]).expect("checked just now"));
                    at += valid;
                    // No length: the end was reached inside a character, the rest may follow.
                    let Some(invalid) = e.error_len() else { break };
                    out.push(char::REPLACEMENT_CHARACTER);
                    at += if self.rules.invalid == InvalidBytes::Each { 1 } else { invalid };
                }
            }
        }
        self.pending.drain(..at);
    }

    /// No more bytes follow: an unfinished character is shown as U+FFFD.
    fn end_of_bytes(&mut self, out: &mut String) {
        if self.pending.is_empty() {
            return;
        }
        let n = if self.rules.invalid == InvalidBytes::Each { self.pending.len() } else { 1 };
        out.extend(std::iter::repeat_n(char::REPLACEMENT_CHARACTER, n));
        self.pending.clear();
        self.prefix_over_if(true);
    }
}

#[derive(Debug)]
struct WholeState<'a> {
    decode: &'a dyn DecodeWhole,
    ids: Vec<u32>,
    emitted: String,
}

impl WholeState<'_> {
    fn push(&mut self, id: u32, out: &mut String) -> Result<()> {
        self.ids.push(id);
        let text = match self.decode.decode_whole(&self.ids) {
            Ok(text) => text,
            Err(e) => {
                self.ids.pop();
                return Err(e);
            }
        };
        // A character that may still be unfinished shows as U+FFFD, and a decoder may yet strip or
        // join what stands at the end: neither is given out before the text goes on behind it.
        let stable = text.trim_end_matches([char::REPLACEMENT_CHARACTER, ' ']);
        if let Some(new) = stable.strip_prefix(self.emitted.as_str()) {
            out.push_str(new);
            self.emitted.push_str(new);
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut String) -> Result<()> {
        let text = self.decode.decode_whole(&self.ids)?;
        out.push_str(text.strip_prefix(self.emitted.as_str()).unwrap_or_default());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ids: 0 ends the text silently, 1 `▁`, 2 `▁a`, 3 `b`, 256.. are bytes.
    #[derive(Debug)]
    struct Table;

    const BYTES: [u8; 4] = [0xE2, 0x82, 0xAC, 0xFF];

    impl Pieces for Table {
        fn n_ids(&self) -> usize {
            260
        }

        fn piece(&self, id: u32) -> Option<Piece<'_>> {
            Some(match id {
                0 => Piece::Silent,
                1 => Piece::Text { text: " ", marked: true },
                2 => Piece::Text { text: " a", marked: true },
                3 => Piece::Text { text: "b", marked: false },
                256..260 => Piece::Bytes(&BYTES[id as usize - 256..][..1]),
                _ => return None,
            })
        }
    }

    fn sentence_piece(prefix: Prefix) -> DecodeStream<'static> {
        DecodeStream::of_pieces(&Table, Rules { invalid: InvalidBytes::Each, prefix })
    }

    fn parts(prefix: Prefix, ids: &[u32]) -> Vec<String> {
        let mut stream = sentence_piece(prefix);
        let mut parts: Vec<String> =
            ids.iter().filter_map(|id| stream.push(*id).unwrap()).collect();
        parts.extend(stream.finish().unwrap());
        assert_eq!(parts.concat(), sentence_piece(prefix).all(ids).unwrap());
        parts
    }

    #[test]
    fn the_dummy_prefix_is_dropped_once() {
        assert_eq!(parts(Prefix::DropOne, &[2, 2, 3]), ["a", " a", "b"]);
        assert_eq!(parts(Prefix::DropOne, &[0, 1, 1, 3]), [" ", "b"]);
        assert_eq!(parts(Prefix::DropOne, &[3, 2]), ["b", " a"]);
        assert_eq!(parts(Prefix::DropAll, &[1, 1, 2, 2]), ["a", " a"]);
        assert_eq!(parts(Prefix::Keep, &[2]), [" a"]);
    }

    #[test]
    fn characters_across_tokens_wait_until_they_are_whole() {
        assert_eq!(parts(Prefix::DropOne, &[256, 257, 258, 2]), ["€", " a"]);
        // Cut off: one mark for each byte, as SentencePiece shows them.
        assert_eq!(parts(Prefix::DropOne, &[256, 257, 3]), ["\u{fffd}\u{fffd}b"]);
        assert_eq!(parts(Prefix::DropOne, &[259, 256]), ["\u{fffd}", "\u{fffd}"]);
    }

    #[test]
    fn an_unknown_id_leaves_the_stream_usable() {
        let mut stream = sentence_piece(Prefix::DropOne);
        assert_eq!(stream.push(2).unwrap().unwrap(), "a");
        let message = stream.push(9).unwrap_err().to_string();
        assert!(message.starts_with("token id 9 at position 1"), "{message}");
        assert_eq!(stream.push(2).unwrap().unwrap(), " a");
    }

    /// Joins with spaces that a later token may take back, as WordPiece decoders do.
    #[derive(Debug)]
    struct Joined;

    impl DecodeWhole for Joined {
        fn decode_whole(&self, ids: &[u32]) -> Result<String> {
            let words: Vec<String> = ids.iter().map(|id| format!("w{id} ")).collect();
            Ok(words.concat().trim_end().to_owned())
        }
    }

    #[test]
    fn whole_decoding_gives_all_text_in_the_end() {
        let mut stream = DecodeStream::of_whole(&Joined);
        let parts: Vec<String> =
            [1, 2, 3].iter().filter_map(|id| stream.push(*id).unwrap()).collect();
        assert_eq!(parts, ["w1", " w2", " w3"]);
        assert_eq!(stream.finish().unwrap(), None);
    }
}
