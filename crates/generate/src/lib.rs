//! Text from a LLaMA: sampling, the decode loop, streaming.
//!
//! ```text
//! prompt -> Encode -> ids --prefill--> KV cache --+--> logits -> Sampler -> id --+-> DecodeStream -> text -> on_text
//!                                        ^        |                             |
//!                                        +--------+------ one token at a time <-+
//! ```
//!
//! [`generate`] goes from text to text and streams; [`decode`] is the loop below it, from ids to ids; [`Sampler`] turns
//! the logits of one position into a token. `examples/generate.rs` shows the three at work.

mod decode;
mod error;
mod generate;
mod sampler;
mod stop;

pub use decode::{Stop, decode};
pub use error::GenerateError;
pub use generate::{Generated, Options, generate};
pub use sampler::Sampler;
