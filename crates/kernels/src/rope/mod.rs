//! Rotary position embedding.

pub(crate) mod reference;
