//! Integration tests of the tokenizer crate, as one binary.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests may")]

mod support;

// What every file that is no tokenizer gives, and what a folder means.
mod files;
// `tokenizer.json`: special tokens, BOS and EOS, round trip, streams; against Python `tokenizers`.
mod hugging_face;
// `.model`: the same; against Python `sentencepiece`.
mod sentence_piece;
// Training: settings, errors, determinism, round trip; against sentencepiece's own trainer.
mod train;
