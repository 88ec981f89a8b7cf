//! A LLaMA behind HTTP: the completions and chat protocol of OpenAI, with continuous batching and a chat page.
//!
//! ```text
//! client --HTTP--> connection --> route --> request (checked, encoded) --queue--> worker thread: Batcher over the model
//!    ^                                                                                |
//!    +---- JSON, or server-sent events <---- pieces of text, one channel per choice --+
//! ```
//!
//! One thread owns the model and does nothing but passes over it; requests come and go between two passes. A client that
//! leaves closes its channel, and the worker frees its slot before the next pass. What a choice may hold back for a slow
//! reader is bounded by its own `max_tokens`.
//!
//! | route | does |
//! |---|---|
//! | `POST /v1/completions`, `POST /v1/chat/completions` | text; `"stream": true` gives server-sent events |
//! | `GET /v1/models` | the one model |
//! | `GET /health`, `GET /metrics` | for operators; the second in Prometheus' text form |
//! | `GET /` | a page to chat in the browser |
//!
//! # Reference
//! The API reference at `platform.openai.com/docs/api-reference` (completions, chat, models, streaming).

mod api;
mod body;
mod connection;
mod error;
mod limits;
mod metrics;
mod request;
mod routes;
mod worker;

pub use connection::{Running, start};
pub use error::ServeError;
pub use limits::Limits;
pub use worker::Served;
