//! SwiGLU.

pub(crate) mod reference;
