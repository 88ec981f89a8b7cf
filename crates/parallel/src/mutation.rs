//! Faults that tests switch on to see that they would be noticed.
//!
//! The code asks [`on`] at the places where a distributed run could be silently wrong. Without the feature `mutations` the
//! answer is a constant `false`, and nothing of it is compiled; with it, the answer is what a test has set. A fault acts
//! between ranks only: one rank by itself computes what it always does, so that there is something to compare with.

#[cfg(feature = "mutations")]
use std::sync::{PoisonError, RwLock};

/// Every fault: the name by which the code asks for it, first the axis or the part, and what it breaks.
pub const FAULTS: &[(&str, &str)] = &[
    ("data_reduction_dropped", "the owner of a sum leaves out what other replicas computed"),
    ("data_gradient_averaged", "the owner divides the sum by the number of replicas"),
    (
        "data_order_lost",
        "the owner adds from left to right, not in the tree: other bits, same value",
    ),
    ("loss_of_own_part", "the loss leaves out what other replicas and context ranks computed"),
    ("norm_scaled", "the squared gradient norm is multiplied by the number of replicas"),
    ("norm_copy_counted", "the last stage's copy of a tied embedding counts in the norm again"),
    ("norm_slices_dropped", "a matrix counts in the norm with one tensor rank's slice"),
    ("norm_whole_summed", "a parameter that tensor ranks hold whole counts once per rank"),
    ("tied_use_dropped", "the head's gradient of a tied embedding is forgotten"),
    ("zero_weights_stay", "only the first rank that divides the state keeps its updated weights"),
    ("pipeline_micro_batch_shifted", "the last stage takes the next micro-batch's targets"),
    ("tensor_enter_drops_sum", "backward leaves a region with one rank's gradient"),
    ("tensor_exit_sums_twice", "backward sums at a region's exit, where forward did"),
    (
        "tensor_norms_not_summed",
        "norms keep the gradient of a part of the sequence, adapters that of a slice",
    ),
    ("tensor_replica_summed", "backward sums over ranks what each of them has whole"),
    ("tensor_vocabulary_shifted", "a rank looks up the token after the one it is asked for"),
    ("tensor_loss_of_own_columns", "the softmax runs over one rank's part of the vocabulary"),
    ("context_drops_step", "queries do not see the keys of the rank before"),
    ("context_forgets_lse", "results of ring steps are merged with a wrong weight"),
    ("context_gradients_stay", "gradients are not summed over the parts of a sequence"),
    ("context_unbalanced", "later ranks have more of the causal triangle: right, but slow"),
];

/// The fault that is on in this process.
#[cfg(feature = "mutations")]
static ACTIVE: RwLock<Option<&'static str>> = RwLock::new(None);

/// Whether the fault of this name is on.
///
/// # Panics
/// If [`FAULTS`] has no such name: no test would switch it on.
#[cfg(feature = "mutations")]
pub fn on(name: &str) -> bool {
    assert_known(name);
    *ACTIVE.read().unwrap_or_else(PoisonError::into_inner) == Some(name)
}

/// Whether the fault of this name is on: never, in a program.
#[cfg(not(feature = "mutations"))]
pub const fn on(_name: &str) -> bool {
    false
}

/// Switches one fault on, or all off, for every thread of the process.
///
/// # Panics
/// If [`FAULTS`] has no such name.
#[cfg(feature = "mutations")]
pub fn set(name: Option<&'static str>) {
    name.iter().for_each(|name| assert_known(name));
    *ACTIVE.write().unwrap_or_else(PoisonError::into_inner) = name;
}

#[cfg(feature = "mutations")]
fn assert_known(name: &str) {
    assert!(FAULTS.iter().any(|(known, _)| *known == name), "`{name}` is not among the faults");
}
