//! `verify` over configurations that users have: it passes where the layout is right, and it keeps what it must keep.

use caravan_model::{Kernels, preset};
use caravan_optim::AdamWConfig;
use caravan_parallel::verify::{self, Case, Demand, Found};
use caravan_parallel::{Activations, Layout, Reduction, Schedule};
use proptest::prelude::*;

use crate::common::device;
use crate::table::ONE;

/// A run with a preset's model, `per_replica` micro-batches on each replica.
fn case(name: &str, layout: Layout, per_replica: usize) -> Case {
    Case {
        model: preset(name).unwrap(),
        layout,
        seq_len: 2048,
        micro_batch: 8,
        n_micro_batches: per_replica * layout.replicas(),
        document_mask: true,
        kernels: Kernels::Fused,
        activations: Activations::Keep,
        device: device(),
        repeatable: true,
        seed: 3,
        adamw: AdamWConfig::default(),
        weight_decay: 0.1,
    }
}

fn assert_passes(case: &Case) {
    let (small, _) = case.shrunk();
    let report = verify::run(&small, &mut |_| {}).unwrap();
    if let Some(check) = report.first_failure() {
        panic!("{}: {check}", small.layout.describe());
    }
    let names: Vec<&str> = report.checks.iter().map(|check| check.name).collect();
    let expected = ["activations", "loss", "gradients", "updates", "gradients once more"];
    assert!(expected.iter().all(|name| names.contains(name)), "{names:?}");
    assert_eq!(names.contains(&"balance of the ring"), case.layout.context > 1);
    let compared = |name: &str| {
        let check = report.checks.iter().find(|check| check.name == name).unwrap();
        let Found::Equal { n, apart } = check.found else { panic!("{check}") };
        println!("{}: {check}", small.layout.describe());
        (n, apart)
    };
    let (segments, n_params) = (small.model.n_layers + 1, small.model.parameters().len());
    let (n, apart) = compared("activations");
    assert_eq!(n, segments * small.n_micro_batches);
    if small.demand() == Demand::SameBits {
        assert_eq!(apart, 0.0);
    }
    assert_eq!(compared("gradients").0, n_params);
    assert_eq!(compared("updates").0, verify::UPDATES * (n_params + 2));
    // On one seed after the other the same gradients come.
    assert_eq!(compared("gradients once more"), (n_params, 0.0));
}

#[test]
fn layouts_of_real_models_pass() {
    let stages =
        |pipeline, schedule, virtual_stages| Layout { pipeline, schedule, virtual_stages, ..ONE };
    let interleaved = stages(2, Schedule::Interleaved, 3);
    let one_f_one_b = stages(4, Schedule::OneForwardOneBackward, 1);
    let zero_3 = Layout { data: 2, shard: 2, zero_stage: 3, ..ONE };
    let wide = Layout { tensor: 8, sequence_parallel: true, ..ONE };
    let long = Layout { context: 4, tensor: 2, sequence_parallel: true, ..ONE };
    let all =
        Layout { data: 2, context: 2, tensor: 2, zero_stage: 1, ..stages(2, Schedule::GPipe, 1) };
    let fast = Layout { data: 3, zero_stage: 2, reduction: Reduction::Fast, ..ONE };
    for (name, layout, per_replica) in [
        ("8m", Layout { data: 3, zero_stage: 1, ..ONE }, 4),
        ("llama3-8b", interleaved, 6),
        ("llama3.1-405b", one_f_one_b, 9),
        ("llama3.2-1b", zero_3, 3),
        ("llama3-70b", wide, 2),
        ("llama3.2-3b", long, 1),
        ("46m", all, 2),
        ("15m", fast, 2),
    ] {
        let case = case(name, layout, per_replica);
        assert_passes(&case);
    }
    let recomputed = Case { activations: Activations::Recompute, ..case("8m", one_f_one_b, 2) };
    assert_passes(&Case { document_mask: false, kernels: Kernels::Reference, ..recomputed });
}

#[test]
fn a_device_that_promises_no_bits_is_held_to_rounding() {
    let case = Case { repeatable: false, ..case("8m", Layout { data: 2, ..ONE }, 2) };
    let report = verify::run(&case.shrunk().0, &mut |_| {}).unwrap();
    assert!(report.is_equal());
    let close = |check: &&verify::Check| check.demand == Demand::Within(verify::TOLERANCE);
    assert_eq!(report.checks.iter().filter(close).count(), report.checks.len());
}

#[test]
fn one_rank_and_impossible_layouts_are_refused() {
    let refused =
        |layout: Layout| verify::run(&case("8m", layout, 2), &mut |_| {}).unwrap_err().to_string();
    let error = refused(ONE);
    assert!(error.contains("nothing to compare\nhelp: split it"), "{error}");
    let error = refused(Layout { tensor: 5, ..ONE });
    assert!(error.contains("n_heads = 6\nhelp: "), "{error}");
}

proptest! {
    /// Whatever can be run can be run small, and is the same layout of the same kind of model.
    #[test]
    fn small_runs_keep_what_they_must(
        name in prop::sample::select(vec!["tiny", "3m", "46m", "llama2-70b", "llama3-8b", "llama3.1-405b"]),
        degrees in [1usize..5, 1usize..3, 0usize..4, 1usize..5, 1usize..5],
        (pieces, per_replica, zero_stage) in (1usize..4, 1usize..9, 0u8..4),
        (sequence_parallel, length) in (any::<bool>(), 1usize..50),
    ) {
        let [data, shard, tensor, pipeline, context] = degrees;
        let tensor = 1 << tensor;
        // What goes with what; the rest of the rules is the layout's own.
        let zero_stage = if data * shard > 1 { zero_stage.max(u8::from(shard > 1)) } else { 0 };
        let virtual_stages = if pipeline > 1 { pieces } else { 1 };
        let (schedule, group) = match virtual_stages {
            1 => (Schedule::OneForwardOneBackward, 1),
            _ => (Schedule::Interleaved, pipeline),
        };
        let sequence_parallel = sequence_parallel && tensor > 1;
        let seq_len = length * if sequence_parallel { 2 * context * tensor } else { 2 * context };
        let (per_replica, reduction) = (per_replica * group, Reduction::Exact);
        let layout = Layout {
            data, shard, tensor, pipeline, context, zero_stage, sequence_parallel, schedule,
            virtual_stages, reduction,
        };
        let case = Case { seq_len, ..case(name, layout, per_replica) };
        prop_assume!(case.check().is_ok());
        let (small, changes) = case.shrunk();
        if let Err(error) = small.check() {
            return Err(TestCaseError::fail(format!("{error}\n{small:?}")));
        }
        prop_assert_eq!(small.layout, case.layout);
        let (a, b) = (&small.model, &case.model);
        prop_assert!(a.validate().is_ok());
        prop_assert_eq!(a.n_heads * b.n_kv_heads, b.n_heads * a.n_kv_heads);
        prop_assert_eq!(a.tie_embeddings, b.tie_embeddings);
        prop_assert_eq!(a.n_layers % layout.n_pieces() == 0, b.n_layers % layout.n_pieces() == 0);
        prop_assert!(small.seq_len <= case.seq_len && small.n_micro_batches <= case.n_micro_batches);
        prop_assert!(a.param_count() < 3_000_000, "{} parameters", a.param_count());
        prop_assert!(changes.iter().all(|change| change.from != change.to));
    }
}
