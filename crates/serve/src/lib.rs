//! A LLaMA behind HTTP.
