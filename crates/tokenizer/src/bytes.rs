//! One token per byte: a tokenizer without a file, for tests, examples and baselines.

use crate::encode::Encode;
use crate::error::Result;
use crate::hash::TokenizerHash;
use crate::stream::{DecodeStream, InvalidBytes, Piece, Pieces, Prefix, Rules};

const BOS: u32 = 256;
const EOS: u32 = 257;

/// 256 byte tokens, BOS 256 and EOS 257.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByteTokenizer;

impl ByteTokenizer {
    /// The tokenizer; there is only one.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

/// Every byte value, so that a piece can borrow its byte.
const BYTES: [u8; 256] = {
    let mut bytes = [0; 256];
    let mut i = 0;
    while i < 256 {
        bytes[i] = i as u8;
        i += 1;
    }
    bytes
};

impl Pieces for ByteTokenizer {
    fn n_ids(&self) -> usize {
        258
    }

    fn piece(&self, id: u32) -> Option<Piece<'_>> {
        match id {
            0..=255 => Some(Piece::Bytes(&BYTES[id as usize..=id as usize])),
            BOS | EOS => Some(Piece::Silent),
            _ => None,
        }
    }
}

impl Encode for ByteTokenizer {
    fn vocab_size(&self) -> usize {
        258
    }

    fn bos_id(&self) -> Option<u32> {
        Some(BOS)
    }

    fn eos_id(&self) -> Option<u32> {
        Some(EOS)
    }

    fn hash(&self) -> TokenizerHash {
        TokenizerHash::of(b"caravan byte tokenizer: 256 bytes, BOS 256, EOS 257")
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(text.bytes().map(u32::from).collect())
    }

    fn decode(&self, ids: &[u32]) -> Result<String> {
        self.decode_stream().all(ids)
    }

    fn decode_stream(&self) -> DecodeStream<'_> {
        DecodeStream::of_pieces(
            self,
            Rules { invalid: InvalidBytes::Maximal, prefix: Prefix::Keep },
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn special_tokens_are_silent_and_unknown_ids_are_errors() {
        let t = ByteTokenizer::new();
        assert_eq!(t.decode(&[BOS, 104, 105, EOS]).unwrap(), "hi");
        let message = t.decode(&[104, 258]).unwrap_err().to_string();
        assert!(message.starts_with("token id 258 at position 1 names no token"), "{message}");
    }

    proptest! {
        #[test]
        fn text_comes_back(text in "\\PC*|.*") {
            let t = ByteTokenizer::new();
            prop_assert_eq!(t.decode(&t.encode(&text).unwrap()).unwrap(), text);
        }

        /// The standard library's lossy decoding is the reference for bytes that are no UTF-8.
        #[test]
        fn stream_is_lossy_utf8(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let t = ByteTokenizer::new();
            let mut stream = DecodeStream::new(&t);
            let mut text = String::new();
            for byte in &bytes {
                if let Some(piece) = stream.push(u32::from(*byte)).unwrap() {
                    prop_assert!(!piece.is_empty());
                    text.push_str(&piece);
                }
            }
            text.push_str(&stream.finish().unwrap().unwrap_or_default());
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        }
    }
}
