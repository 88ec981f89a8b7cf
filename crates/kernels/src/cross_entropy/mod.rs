//! Cross-entropy.

pub(crate) mod reference;
