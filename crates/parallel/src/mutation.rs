//! Faults that tests switch on to see that they would be noticed.
//!
//! The code asks [`on`] at the places where a distributed run could be silently wrong. Without the feature `mutations` the
//! answer is a constant `false`, and nothing of it is compiled; with it, the answer is what a test has set.

#[cfg(feature = "mutations")]
use std::sync::{PoisonError, RwLock};

/// The fault that is on in this process.
#[cfg(feature = "mutations")]
static ACTIVE: RwLock<Option<&'static str>> = RwLock::new(None);

/// Whether the fault of this name is on.
#[cfg(feature = "mutations")]
pub fn on(name: &str) -> bool {
    *ACTIVE.read().unwrap_or_else(PoisonError::into_inner) == Some(name)
}

/// Whether the fault of this name is on: never, in a program.
#[cfg(not(feature = "mutations"))]
pub const fn on(_name: &str) -> bool {
    false
}

/// Switches one fault on, or all off, for every thread of the process.
#[cfg(feature = "mutations")]
pub fn set(name: Option<&'static str>) {
    *ACTIVE.write().unwrap_or_else(PoisonError::into_inner) = name;
}
