//! Deliberate faults for the mutation suite, compiled in with the feature `mutations` alone.

#[cfg(feature = "mutations")]
mod compiled {
    use std::sync::{PoisonError, RwLock};

    static ACTIVE: RwLock<Option<&'static str>> = RwLock::new(None);

    /// Switches one fault on, or all off.
    pub fn set(name: Option<&'static str>) {
        *ACTIVE.write().unwrap_or_else(PoisonError::into_inner) = name;
    }

    /// Whether the fault is switched on.
    pub fn on(name: &str) -> bool {
        *ACTIVE.read().unwrap_or_else(PoisonError::into_inner) == Some(name)
    }
}

#[cfg(feature = "mutations")]
pub use compiled::{on, set};

/// No fault is compiled in.
#[cfg(not(feature = "mutations"))]
pub(crate) const fn on(_: &str) -> bool {
    false
}
