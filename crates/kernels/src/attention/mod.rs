//! Causal grouped-query attention.

pub(crate) mod reference;
