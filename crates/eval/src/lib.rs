//! How good a language model is: perplexity, bits per byte, multiple choice, continuation, a byte n-gram to compare with.
