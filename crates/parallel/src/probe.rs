//! Moments of a step that a test can look in at, to measure what a rank holds then.
//!
//! Without the feature `mutations` nothing of it is compiled.

#[cfg(feature = "mutations")]
use std::sync::{PoisonError, RwLock};

/// Called with the name of a moment and a number that belongs to it.
#[cfg(feature = "mutations")]
pub type Probe = fn(&str, usize);

#[cfg(feature = "mutations")]
static PROBE: RwLock<Option<Probe>> = RwLock::new(None);

/// Sets what is called, for every thread of the process.
#[cfg(feature = "mutations")]
pub fn set(probe: Option<Probe>) {
    *PROBE.write().unwrap_or_else(PoisonError::into_inner) = probe;
}

/// `forward` and `backward`, each done, with the micro-batches in flight then.
#[cfg(feature = "mutations")]
pub(crate) fn at(moment: &str, n: usize) {
    let probe = *PROBE.read().unwrap_or_else(PoisonError::into_inner);
    if let Some(probe) = probe {
        probe(moment, n);
    }
}

/// Nobody looks.
#[cfg(not(feature = "mutations"))]
pub(crate) const fn at(_moment: &str, _n: usize) {}
