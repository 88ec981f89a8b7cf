//! Integration tests of the kernels, on Flex.

/// Attention: shapes, grouped queries, document masks, caches.
mod attention;
/// Attention to parts of the keys, merged.
mod attention_part;
/// Cross-entropy and token losses: ignored rows, large logits, bad targets.
mod cross_entropy;
/// Linear layers: value and gradients, small and on matrix tiles.
mod linear;
/// Plain float64 loops that the kernels are held against, and their own check by differences.
mod plain;
/// RMSNorm, the rotary embedding and SwiGLU.
mod pointwise;
/// Running an operator and comparing numbers.
mod support;
/// The same bits with any number of threads.
mod threads;
