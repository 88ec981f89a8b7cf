use burn::tensor::DType;
use caravan_model::Kernels;
use caravan_parallel::Activations;

use crate::sequence::{Heads, Layout, attended, balanced, compare};
use crate::{alone, with};

/// Loss, gradients, and the balance of the work.
fn check(ranks: usize, tie: bool, documents: bool) -> Result<(), String> {
    let (kernels, activations) = (Kernels::Fused, Activations::Keep);
    compare(&Layout { ranks, chunk: 5, tie, documents, kernels, activations })?;
    let heads =
        Heads { ranks, rows: 2, n_heads: 4, n_kv_heads: 2, head_dim: 8, chunk: 5, documents };
    balanced(&attended(&heads, kernels, DType::F32)?.multiply_adds)
}

#[test]
fn every_fault_of_context_parallelism_is_noticed() {
    let _alone = alone();
    // A fault and what must be named. Unbalanced, all numbers are right and only the work is not.
    let faults = [
        ("context_unbalanced", "multiply-adds of ring step 1"),
        ("context_drops_step", "loss"),
        ("context_forgets_lse", "loss"),
        ("context_gradients_stay", "embed.weight"),
    ];
    for ranks in [2, 3, 4] {
        for (tie, documents) in [(false, true), (true, false)] {
            check(ranks, tie, documents).unwrap();
            for (fault, place) in faults {
                let what = with(fault, || check(ranks, tie, documents)).expect_err(fault);
                println!("{fault}, {ranks} ranks, tied {tie}, documents {documents}: {what}");
                assert!(what.contains(place), "{fault}: {what}");
            }
            check(ranks, tie, documents).unwrap();
        }
    }
}
