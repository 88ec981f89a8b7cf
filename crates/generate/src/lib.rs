//! Text from a LLaMA: sampling, the decode loop, streaming.
