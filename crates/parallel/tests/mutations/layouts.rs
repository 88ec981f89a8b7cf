//! Every fault against the table of layouts, and against `verify`.

use std::collections::BTreeSet;
use std::ops::Range;

use caravan_model::{Kernels, LlamaConfig};
use caravan_optim::AdamWConfig;
use caravan_parallel::mutation::FAULTS;
use caravan_parallel::{Activations, BlockTree, Combine, verify};

use crate::table::{
    Case, ROWS, Run, SEQ_LEN, close_cases, compare, exact_cases, fast_cases, one_rank,
};
use crate::tensor::OF_TUNING;
use crate::{alone, common, with};

/// Enough for a second step that has seen an update.
const STEPS: usize = 2;

/// A fault, and what it makes wrong.
struct Row {
    fault: &'static str,
    /// Whether a layout has what the fault breaks: all of these must show it.
    touches: fn(&Case) -> bool,
    /// How the message of the table's comparison begins.
    says: &'static [&'static str],
    /// How the place begins that `verify` names.
    place: &'static str,
}

/// Said where ranks disagree on what should be the same everywhere.
const APART: &str = "rank";

const FAULTS_OF_LAYOUTS: &[Row] = &[
    Row {
        fault: "data_reduction_dropped",
        touches: |case| case.layout.replicas() > 1,
        says: &["gradient "],
        place: "gradients: head.",
    },
    Row {
        fault: "data_gradient_averaged",
        touches: |case| case.layout.replicas() > 1,
        says: &["gradient "],
        place: "gradients: head.",
    },
    Row {
        fault: "data_order_lost",
        touches: loses_the_tree,
        says: &["gradient "],
        place: "gradients: head.",
    },
    Row {
        fault: "loss_of_own_part",
        touches: |case| case.layout.replicas() * case.layout.context > 1,
        says: &[APART],
        place: "loss: the number of tokens",
    },
    Row {
        fault: "norm_scaled",
        touches: |case| case.layout.replicas() > 1,
        says: &["step 0", "norm of step 0"],
        place: "updates: the norm of update 1",
    },
    Row {
        fault: "norm_copy_counted",
        touches: |case| case.tied && case.layout.pipeline > 1,
        says: &["step 0", "norm of step 0"],
        place: "updates: the norm of update 1",
    },
    Row {
        fault: "norm_slices_dropped",
        touches: |case| case.layout.tensor > 1,
        says: &[APART],
        place: "updates: the norm of update 1",
    },
    Row {
        fault: "norm_whole_summed",
        touches: |case| case.layout.tensor > 1,
        says: &["norm of step 0"],
        place: "updates: the norm of update 1",
    },
    Row {
        fault: "tied_use_dropped",
        touches: |case| case.tied && case.layout.world() > 1,
        says: &["gradient embed.weight"],
        place: "gradients: embed.weight",
    },
    Row {
        fault: "zero_weights_stay",
        touches: |case| case.layout.zero_stage > 0,
        says: &[APART, "step 1", "loss of step 1"],
        place: "updates: embed.weight after update 1",
    },
    Row {
        fault: "pipeline_micro_batch_shifted",
        touches: |case| case.layout.pipeline > 1 && case.n > case.layout.replicas(),
        says: &["loss "],
        // The last stage, whose blocks see other documents.
        place: "activations: the output of blocks.",
    },
    Row {
        fault: "tensor_enter_drops_sum",
        touches: |case| case.layout.tensor > 1,
        says: &["gradient ", APART],
        place: "gradients: head.norm.weight",
    },
    Row {
        fault: "tensor_exit_sums_twice",
        touches: |case| case.layout.tensor > 1,
        says: &["gradient "],
        place: "gradients: blocks.3.w_down.weight",
    },
    Row {
        fault: "tensor_norms_not_summed",
        touches: |case| case.layout.sequence_parallel,
        says: &["gradient ", APART],
        place: "gradients: head.norm.weight",
    },
    Row {
        fault: "tensor_vocabulary_shifted",
        touches: |case| case.layout.tensor > 1,
        says: &["loss "],
        place: "activations: the output of embed",
    },
    Row {
        fault: "tensor_loss_of_own_columns",
        touches: |case| case.layout.tensor > 1,
        says: &["loss ", APART],
        place: "loss: the loss",
    },
    Row {
        fault: "context_drops_step",
        touches: |case| case.layout.context > 1,
        says: &["loss "],
        place: "activations: the output of blocks.0",
    },
    Row {
        fault: "context_forgets_lse",
        touches: |case| case.layout.context > 1,
        says: &["loss "],
        place: "activations: the output of blocks.0",
    },
    Row {
        fault: "context_gradients_stay",
        touches: |case| case.layout.context > 1,
        says: &["gradient ", APART],
        place: "gradients: head.",
    },
    Row {
        fault: "context_unbalanced",
        touches: |case| case.layout.context > 1,
        says: &["work of ring step"],
        place: "balance of the ring: ",
    },
];

/// Whether adding blocks from left to right, as they come, is another order of additions than the tree's.
fn loses_the_tree(case: &Case) -> bool {
    /// An order of additions, written down.
    #[derive(Clone, PartialEq)]
    struct Order(String);
    impl Combine for Order {
        fn combine(self, right: Self) -> Self {
            Self(format!("({}+{})", self.0, right.0))
        }
    }
    let (n, replicas) = (case.n as u64, case.layout.replicas() as u64);
    if !case.is_exact() || replicas == 1 {
        return false;
    }
    let each = n / replicas;
    // ZeRO 2 and 3 hand over one micro-batch of each rank at a time, the others all at the end.
    let ranges: Vec<_> = match case.layout.zero_stage {
        0 | 1 => (0..replicas).map(|replica| replica * each..(replica + 1) * each).collect(),
        _ => (0..n).map(|index| index..index + 1).collect(),
    };
    let add = |tree: &mut BlockTree<Order>, index: u64| tree.push(index, Order(index.to_string()));
    let blocks = |range: Range<u64>| {
        let mut tree = BlockTree::new();
        range.for_each(|index| add(&mut tree, index));
        tree.into_blocks().into_iter().map(|(_, order)| order)
    };
    let from_the_left = ranges.into_iter().flat_map(blocks).reduce(Combine::combine);
    let mut tree = BlockTree::new();
    (0..n).for_each(|index| add(&mut tree, index));
    tree.finish() != from_the_left
}

/// All layouts, with the run of one rank that each is held against.
fn table() -> Vec<(Case, Run)> {
    let cases = [exact_cases(), close_cases(), fast_cases()].concat();
    cases.into_iter().map(|case| (case, one_rank(&case, STEPS))).collect()
}

#[test]
fn every_fault_is_in_the_suite() {
    let of_layouts = FAULTS_OF_LAYOUTS.iter().map(|row| row.fault);
    let suite: BTreeSet<&str> = of_layouts.chain(OF_TUNING).collect();
    let known: BTreeSet<&str> = FAULTS.iter().map(|(name, _)| *name).collect();
    assert_eq!(suite, known);
    assert_eq!(FAULTS_OF_LAYOUTS.len() + OF_TUNING.len(), FAULTS.len(), "a name is there twice");
}

/// Every layout that has what a fault breaks shows it, and layouts that do not have it pass.
#[test]
fn the_table_catches_every_fault() {
    let _alone = alone();
    let table = table();
    for (case, one) in &table {
        compare(case, one).unwrap_or_else(|what| panic!("without a fault {case:?}: {what}"));
    }
    for row in FAULTS_OF_LAYOUTS {
        let is_touched = |(case, _): &&(Case, Run)| (row.touches)(case);
        let (touched, others): (Vec<_>, Vec<_>) = table.iter().partition(is_touched);
        assert!(!touched.is_empty(), "no layout has what {} breaks", row.fault);
        for (case, one) in &touched {
            let noticed = with(row.fault, || compare(case, one));
            let what = noticed.expect_err(&format!("{} is not noticed by {case:?}", row.fault));
            let says = row.says.iter().any(|word| what.starts_with(word));
            assert!(says, "{}: {what}\n{case:?}", row.fault);
        }
        // Some of the others, so that a fault is what its name says.
        for (case, one) in others.iter().step_by(5) {
            let passes = with(row.fault, || compare(case, one));
            passes.unwrap_or_else(|what| panic!("{} in {case:?}: {what}", row.fault));
        }
        println!("{}: caught by all {} layouts that have it", row.fault, touched.len());
    }
}

/// The same run as `verify` is told of it.
fn verify_case(case: &Case) -> verify::Case {
    verify::Case {
        // Larger weights, as in a model that was made smaller: all parts count.
        model: LlamaConfig { init_std: 0.2, ..case.config() },
        layout: case.layout,
        seq_len: SEQ_LEN,
        micro_batch: ROWS,
        n_micro_batches: case.n,
        document_mask: true,
        kernels: Kernels::Fused,
        activations: Activations::Keep,
        device: common::device(),
        repeatable: true,
        seed: 11,
        adamw: AdamWConfig::default(),
        weight_decay: 0.1,
    }
}

#[test]
fn verify_names_the_place_of_every_fault() {
    let _alone = alone();
    let table = [exact_cases(), close_cases(), fast_cases()].concat();
    for row in FAULTS_OF_LAYOUTS {
        let touched: Vec<&Case> = table.iter().filter(|case| (row.touches)(case)).collect();
        // The smallest and the largest layout that have it.
        for case in [touched[0], touched[touched.len() - 1]] {
            let case = verify_case(case);
            let report = with(row.fault, || verify::run(&case, &mut |_| {}).unwrap());
            let check = report.first_failure().unwrap_or_else(|| panic!("{}: equal", row.fault));
            println!("{}, {}: {check}", row.fault, case.layout.describe());
            let (place, text) = (check.place(), check.to_string());
            assert!(place.starts_with(row.place), "{}: {place}\n{text}", row.fault);
            assert!(place.contains("on rank ") && text.contains(" apart"), "{text}");
            // Without the fault there is nothing.
            let report = verify::run(&case, &mut |_| {}).unwrap();
            assert!(report.is_equal(), "{:?}", report.first_failure());
        }
    }
}
