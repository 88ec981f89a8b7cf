use caravan_model::Kernels;
use caravan_parallel::Activations;

use crate::ranks::{Layout, compare, expected};
use crate::tuned::{Tuned, compare_tuned};
use crate::{alone, with};

fn layout(tie: bool, sequence_parallel: bool) -> Layout {
    Layout {
        ranks: 2,
        n_heads: 6,
        n_kv_heads: 2,
        d_ff: 100,
        vocab_size: 97,
        tie,
        sequence_parallel,
        documents: true,
        kernels: Kernels::Fused,
        activations: Activations::Keep,
    }
}

/// What the comparison says of each fault, for every way of tying and splitting.
#[test]
fn every_fault_of_tensor_parallelism_is_noticed() {
    let _alone = alone();
    // A fault, whether it needs a tied embedding and whether sequence parallelism to be one, and what must be named.
    let faults = [
        ("tensor_enter_drops_sum", false, false, "embed.weight"),
        ("tensor_exit_sums_twice", false, false, "embed.weight"),
        ("tensor_norms_not_summed", false, true, "norm.weight"),
        ("tensor_vocabulary_shifted", false, false, "loss"),
        ("tensor_loss_of_own_columns", false, false, "loss"),
        ("tied_use_dropped", true, false, "embed.weight"),
    ];
    for tie in [false, true] {
        for sequence_parallel in [false, true] {
            let layout = layout(tie, sequence_parallel);
            let expected = expected(&layout);
            compare(&layout, &expected).unwrap();
            for (fault, needs_tied, needs_sequence, place) in faults {
                if (needs_tied && !tie) || (needs_sequence && !sequence_parallel) {
                    continue;
                }
                let noticed = with(fault, || compare(&layout, &expected));
                let what = noticed.expect_err(fault);
                println!("{fault}, tied {tie}, sequence parallel {sequence_parallel}: {what}");
                assert!(what.contains(place), "{fault}: {what}");
            }
            compare(&layout, &expected).unwrap();
        }
    }
}

/// Of faults, those that only models with adapters or classes can show.
pub(crate) const OF_TUNING: [&str; 1] = ["tensor_replica_summed"];

#[test]
fn every_fault_of_adapters_and_classes_is_noticed() {
    let _alone = alone();
    let faults = [
        ("tensor_norms_not_summed", false),
        ("tensor_norms_not_summed", true),
        ("tensor_replica_summed", true),
        ("tensor_enter_drops_sum", false),
        ("tensor_exit_sums_twice", false),
    ];
    for (fault, sequence_parallel) in faults {
        let tuned = Tuned { ranks: 2, sequence_parallel, ..Tuned::default() };
        compare_tuned(&tuned).unwrap();
        let what = with(fault, || compare_tuned(&tuned)).expect_err(fault);
        println!("{fault}, sequence parallel {sequence_parallel}: {what}");
        assert!(what.contains(".lora."), "{fault}: {what}");
    }
}
