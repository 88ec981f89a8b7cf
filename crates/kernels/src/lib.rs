//! Fused operators for LLaMA training on Burn, with hand-written backward passes and composed
//! references.
//!
//! Under autodiff Burn decomposes attention, softmax and SiLU into single operations on every
//! backend, so this is where the speed of a training step is. Each operator is a folder:
//!
//! ```text
//! src/<op>/mod.rs        what it computes, its composed kernels, dispatch to a backend
//!          reference.rs  the operator of Burn's own operations: what every kernel must equal
//!          autodiff.rs   the hand-written backward, one for all backends
//!          flex.rs       f32 kernels for the CPU
//! src/simd.rs            one body compiled for AVX-512, AVX2 and the baseline
//! src/flex_data.rs       reading and making Flex tensors
//! src/backends.rs        which devices have kernels
//! ```
//!
//! The kernels fix the order of their sums by block size, never by thread count: the same binary on
//! the same CPU model gives the same bits with any number of threads.
//!
//! ```
//! # #[cfg(feature = "flex")] {
//! use burn::tensor::{Device, Tensor};
//! use caravan_kernels::Kernels;
//!
//! let device = Device::flex().autodiff();
//! let x = Tensor::<2>::from_floats([[3.0, 4.0]], &device).require_grad();
//! let weight = Tensor::<1>::from_floats([1.0, 1.0], &device);
//! let y = Kernels::Fused.rms_norm(x.clone(), weight, 1e-5);
//! let grads = y.sum().backward();
//! assert!(x.grad(&grads).is_some());
//! # }
//! ```

#![cfg_attr(
    feature = "tch",
    allow(deprecated, reason = "burn-tch stays as a backend to compare with")
)]

mod attention;
mod backends;
mod cross_entropy;
#[cfg(feature = "flex")]
mod flex_data;
mod kernels;
mod linear;
mod rms_norm;
mod rope;
#[cfg(feature = "flex")]
mod simd;
mod swiglu;

pub use attention::part::{AttentionPart, SeenKeys};
pub use kernels::Kernels;
