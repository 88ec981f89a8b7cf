//! The seam: what the rest of the stack knows about a tokenizer.

use std::fmt::Debug;

use rayon::prelude::*;

use crate::error::{Result, TokenizerError};
use crate::hash::TokenizerHash;
use crate::stream::DecodeStream;

/// Text to token ids and back. Object safe; compiled without any feature.
pub trait Encode: Debug + Send + Sync {
    /// Size of the vocabulary: every id is below this.
    fn vocab_size(&self) -> usize;

    /// The token that begins a document, if the vocabulary has one.
    fn bos_id(&self) -> Option<u32>;

    /// The token that ends a document, if the vocabulary has one.
    fn eos_id(&self) -> Option<u32>;

    /// Whether a text that a model sees begins with BOS, as the tokenizer's files say. [`Encode::encode`] adds none either way.
    fn adds_bos(&self) -> bool {
        self.bos_id().is_some()
    }

    /// The identity of the tokenizer: equal hashes give equal ids for every text.
    fn hash(&self) -> TokenizerHash;

    /// The ids of a text. No BOS or EOS is added, and special tokens written in the text are
    /// ordinary text. An empty text has no ids.
    ///
    /// # Errors
    /// [`TokenizerError::TextTooLong`] for an unbroken stretch of hundreds of megabytes, and
    /// [`TokenizerError::Engine`] when the library below refuses.
    fn encode(&self, text: &str) -> Result<Vec<u32>>;

    /// The text of ids. Control tokens (BOS, EOS, ...) give no text; bytes that are no UTF-8 give
    /// U+FFFD.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownId`] for an id that names no token.
    fn decode(&self, ids: &[u32]) -> Result<String>;

    /// The ids of many texts, in the order of the texts, on all cores of the current rayon pool.
    /// The same ids as [`Encode::encode`] for each text, for every number of threads.
    ///
    /// # Errors
    /// As [`Encode::encode`], for the first text that fails.
    fn encode_batch(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>> {
        let all: Vec<Result<Vec<u32>>> = texts.par_iter().map(|text| self.encode(text)).collect();
        all.into_iter().collect()
    }

    /// A decoder that is fed one id at a time; the same as [`DecodeStream::new`].
    fn decode_stream(&self) -> DecodeStream<'_>;
}

/// The error for an id outside the vocabulary.
pub(crate) fn unknown_id(id: u32, position: usize, vocab_size: usize) -> TokenizerError {
    TokenizerError::UnknownId { id, position, vocab_size }
}
