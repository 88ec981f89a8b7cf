//! Tokenizers for LLaMA: load SentencePiece and Hugging Face files, train BPE, encode and decode in parallel.
