//! LLaMA 1 to 3.2 on Burn: configuration, presets, segments, KV cache, Hugging Face weights in and out.
