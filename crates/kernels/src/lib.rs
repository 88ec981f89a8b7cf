//! Fused operators for LLaMA training on Burn, with hand-written backward passes and composed references.
