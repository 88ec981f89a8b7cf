//! What can go wrong on the way to a model.

use std::path::PathBuf;

/// Errors of this crate. The last line of each message says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A name that is none.
    #[error(
        "`{found}` names no model on a hub: {problem}\nhelp: write owner/name, owner/name@revision or owner/name:file.gguf"
    )]
    Name {
        /// What was written.
        found: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The server has no such repository, revision or file, or keeps it from us.
    #[error("{what}: the server at {endpoint} says {status}\nhelp: {help}")]
    Refused {
        /// What was asked for.
        what: String,
        /// Who was asked.
        endpoint: String,
        /// The status of HTTP.
        status: u16,
        /// What to do.
        help: &'static str,
    },
    /// The repository has nothing that can be loaded.
    #[error("`{repo}` {problem}\nhelp: {help}")]
    Content {
        /// The repository.
        repo: String,
        /// What is missing.
        problem: String,
        /// What to do.
        help: String,
    },
    /// A file is not what the server said it would be.
    #[error("`{}` of `{repo}`: expected {expected}, found {found}; it was removed\nhelp: try again; if it happens again, the server or a proxy changes files", file.display())]
    Damaged {
        /// The repository.
        repo: String,
        /// The file.
        file: PathBuf,
        /// What the server said.
        expected: String,
        /// What came.
        found: String,
    },
    /// The transfer failed.
    #[error(
        "{what} from {endpoint}: {problem}\nhelp: check the connection and try again: what has arrived is kept"
    )]
    Transfer {
        /// What was asked for.
        what: String,
        /// Who was asked.
        endpoint: String,
        /// What the library said.
        problem: String,
    },
    /// The cache cannot be used.
    #[error("cannot {action} `{}`: {source}\nhelp: check the space and permissions of the cache, or name another folder", path.display())]
    Io {
        /// `read`, `remove`, ...
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

pub(crate) type Result<T> = std::result::Result<T, HubError>;
