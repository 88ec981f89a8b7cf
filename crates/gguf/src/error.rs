//! What can be wrong with a GGUF file.

use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file cannot be read.
    #[error("cannot read `{}`: {source}\nhelp: check that it is a readable file", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Its first bytes are not those of a GGUF file that is read here.
    #[error("`{}` is no GGUF file that can be read: {found}\nhelp: {help}", path.display())]
    NotGguf {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        found: String,
        /// What to do.
        help: &'static str,
    },
    /// A length or number in the header cannot be.
    #[error(
        "`{}` is damaged at byte {offset}: {problem}\nhelp: fetch the file again and compare its size with the original", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        offset: u64,
        /// What is wrong there.
        problem: String,
    },
    /// A metadata key is missing or has another type.
    #[error("`{}`: metadata key `{key}` is {found}, expected {expected}\nhelp: {help}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is there.
        found: String,
        /// What should be.
        expected: String,
        /// What to do.
        help: String,
    },
    /// A tensor has a type that is not decoded.
    #[error(
        "`{}`: tensor `{name}` has the type {found}, which is not decoded\nhelp: use a file of the same model in F32, F16, BF16, Q8_0, Q6_K, Q5_K, Q5_1, Q5_0, Q4_K, Q4_1 or Q4_0", path.display()
    )]
    Type {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
    },
}
