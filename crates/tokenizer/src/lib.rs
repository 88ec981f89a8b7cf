//! Tokenizers for LLaMA: load SentencePiece and Hugging Face files, train BPE, encode and decode in
//! parallel.
//!
//! ```text
//! tokenizer.model (SentencePiece) --+                     +-- encode, encode_batch --> Vec<u32>
//! tokenizer.json (Hugging Face) ----+--> Tokenizer: Encode+-- decode, DecodeStream --> text
//! model.gguf (either of the two) ---+                     |
//! text --train_bpe--> TrainedModel -+                     +-- hash (BLAKE3 of the file)
//!                     ByteTokenizer: Encode, without any file
//! ```
//!
//! The trait [`Encode`], [`ByteTokenizer`] and [`DecodeStream`] are always compiled and need no
//! native code. Feature `sentencepiece` reads `.model` files and trains them ([`train_bpe`]),
//! feature `huggingface` reads `tokenizer.json`; both are on by default. Without them
//! [`Tokenizer::load`] still tells what a file is and which feature reads it.
//!
//! ```
//! use caravan_tokenizer::{ByteTokenizer, Encode};
//!
//! let tokenizer = ByteTokenizer::new();
//! let ids = tokenizer.encode("hé")?;
//! assert_eq!(ids, [104, 195, 169]);
//! assert_eq!(tokenizer.decode(&ids)?, "hé");
//! # Ok::<(), caravan_tokenizer::TokenizerError>(())
//! ```
//!
//! # What a round trip keeps
//! `decode(encode(text)) == text` holds for every text with a model that leaves text as it is:
//! byte fallback or byte-level pieces and the identity normalisation, as LLaMA 1 to 3 and
//! [`train_bpe`] have. The one exception with SentencePiece is U+2581 (`▁`), its mark for a space,
//! which comes back as a space. Foreign models may change text on purpose: normalisation such as
//! `nmt_nfkc` folds characters, `remove_extra_whitespaces` drops spaces, and a model without byte
//! fallback turns unseen characters into its unknown token.

mod bytes;
mod encode;
mod error;
#[cfg(all(feature = "sentencepiece", feature = "huggingface"))]
mod gguf;
mod hash;
#[cfg(feature = "huggingface")]
mod hugging_face;
#[cfg(feature = "sentencepiece")]
mod sentence_piece;
mod sniff;
mod stream;
mod tokenizer;
#[cfg(feature = "sentencepiece")]
mod train;

pub use bytes::ByteTokenizer;
pub use encode::Encode;
pub use error::TokenizerError;
pub use hash::TokenizerHash;
pub use sniff::Kind;
pub use stream::DecodeStream;
pub use tokenizer::Tokenizer;
#[cfg(feature = "sentencepiece")]
pub use train::{TrainConfig, TrainProgress, TrainedModel, train_bpe};
