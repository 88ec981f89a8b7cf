//! Fused operators for LLaMA training on Burn, with hand-written backward passes and composed references.

mod attention;
mod cross_entropy;
mod kernels;
mod rms_norm;
mod rope;
mod swiglu;

pub use kernels::Kernels;
