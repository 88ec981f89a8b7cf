//! RMSNorm over the last dim.

pub(crate) mod reference;
