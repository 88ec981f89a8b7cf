//! Text from a LLaMA: sampling, the decode loop, streaming.
//!
//! ```text
//! prompt -> Encode -> ids --prefill--> KV cache --+--> logits -> Sampler -> id --+-> DecodeStream -> text -> on_text
//!                                        ^        |                             |
//!                                        +--------+------ one token at a time <-+
//! ```
//!
//! [`generate`] goes from text to text and streams; [`decode`] is the loop below it, from ids to ids; [`Sampler`] turns
//! the logits of one position into a token. [`Batcher`] runs many requests over one model, [`TextStream`] makes text of
//! their ids, [`ChatTemplate`] makes a prompt of a conversation. `examples/generate.rs` shows the first three at work.

mod batch;
mod decode;
mod error;
mod generate;
mod python;
mod sampler;
mod stop;
mod template;
mod text;

pub use batch::{Batcher, Event, Request, RequestId};
pub use decode::{Decoding, Stop, decode};
pub use error::GenerateError;
pub use generate::{Generated, Options, generate, generate_from};
pub use sampler::Sampler;
pub use template::{ChatTemplate, Message, TEMPLATES};
pub use text::TextStream;
