//! The server over real connections, with a tiny model.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

/// Many at once, slow ones, ones that leave.
mod load;
/// OpenAI's own client.
mod python;
/// What each route answers.
mod routes;
/// A client of a few lines, and a server to talk to.
mod support;
