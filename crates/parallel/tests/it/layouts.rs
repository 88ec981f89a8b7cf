//! Every strategy equals one rank: a table of layouts, over threads.

use caravan_collective::threads;
use caravan_model::{Kernels, LlamaConfig};
use caravan_optim::{AdamW, AdamWConfig, ParamGroups, Placement};
use caravan_parallel::{
    Activations, Engine, Layout, LossSum, Mesh, MicroBatch, Reduction, Schedule, StepSettings,
    Values,
};

use crate::common;

/// Updates after which the parameters are compared.
const STEPS: usize = 20;
const SEQ_LEN: usize = 12;
const ROWS: usize = 2;

/// A row of the table.
#[derive(Clone, Copy, Debug)]
struct Case {
    layout: Layout,
    /// Micro-batches of a step, over all replicas.
    n: usize,
    tied: bool,
    n_kv_heads: usize,
    n_layers: usize,
}

impl Case {
    /// Learning rate; where bits are compared a large one, that shows any difference.
    fn lr(&self) -> f64 {
        if self.layout.tensor * self.layout.context > 1 { 1e-3 } else { 1e-2 }
    }
}

const ONE: Layout = Layout {
    data: 1,
    shard: 1,
    tensor: 1,
    pipeline: 1,
    context: 1,
    zero_stage: 0,
    sequence_parallel: false,
    schedule: Schedule::OneForwardOneBackward,
    virtual_stages: 1,
    reduction: Reduction::Exact,
};

fn case(n: usize, layout: Layout) -> Case {
    Case { layout, n, tied: false, n_kv_heads: 2, n_layers: 4 }
}

fn tied(case: Case) -> Case {
    Case { tied: true, ..case }
}

/// What one run gives: gradients and loss of the first step, losses and norms of all, parameters at the end.
#[derive(Clone, Debug, PartialEq)]
struct Run {
    gradients: Vec<Values>,
    first: LossSum,
    losses: Vec<(u64, u64, u64)>,
    parameters: Vec<Values>,
}

fn config(case: &Case) -> LlamaConfig {
    LlamaConfig {
        n_kv_heads: case.n_kv_heads,
        n_layers: case.n_layers,
        d_ff: 102,
        ..common::config(case.tied)
    }
}

fn batch(case: &Case, step: usize, index: u64) -> MicroBatch {
    let seed = step * case.n + index as usize;
    common::batch(config(case).vocab_size, ROWS, SEQ_LEN, seed, index.is_multiple_of(2))
}

fn run(case: &Case, layout: Layout, mesh: Mesh) -> Run {
    let config = config(case);
    layout.check(&config, SEQ_LEN, ROWS, ROWS * case.n).unwrap();
    let device = common::device();
    let mut engine = Engine::init(&config, 11, Kernels::Fused, &device, layout, mesh).unwrap();
    let indices = engine.micro_batches(case.n);
    let batches = |step| indices.iter().map(|i| batch(case, step, *i)).collect::<Vec<_>>();
    let (gradients, first) = engine.all_gradients(case.n, &batches(0), Activations::Keep);
    let mut optimizer = AdamW::new(AdamWConfig::default(), Placement::Host).unwrap();
    let groups = ParamGroups::default();
    let losses = (0..STEPS).map(|step| {
        let settings = StepSettings {
            lr: case.lr(),
            weight_decay: 0.1,
            groups: &groups,
            grad_clip: 1.0,
            activations: if step % 2 == 0 { Activations::Keep } else { Activations::Recompute },
        };
        let outcome = engine.step(&mut optimizer, case.n, &batches(step), settings).unwrap();
        (outcome.loss.nats.to_bits(), outcome.loss.tokens, outcome.grad_norm.to_bits())
    });
    let losses = losses.collect();
    Run { gradients, first, losses, parameters: engine.all_parameters() }
}

/// Runs a case on its ranks, checks that all ranks tell the same, and returns it beside one rank's.
fn both(case: &Case) -> (Run, Run) {
    let one = run(case, Layout { reduction: Reduction::Exact, ..ONE }, Mesh::alone());
    let runs = threads::run(case.layout.world(), |world| {
        let mesh = Mesh::new(world.checked(), &case.layout).unwrap();
        run(case, case.layout, mesh)
    });
    let mut runs = runs.unwrap_or_else(|failed| panic!("{case:?}: {failed}"));
    let first = runs.remove(0);
    for (rank, other) in runs.iter().enumerate() {
        assert!(*other == first, "{case:?}: rank {} tells something else than rank 0", rank + 1);
    }
    (first, one)
}

fn assert_same_bits(case: &Case) {
    let (many, one) = both(case);
    assert_eq!(many.first, one.first, "{case:?}: loss");
    for (many, one) in many.gradients.iter().zip(&one.gradients) {
        let differ =
            many.values.iter().zip(&one.values).position(|(a, b)| a.to_bits() != b.to_bits());
        assert_eq!((&many.path, differ), (&one.path, None), "{case:?}: gradient");
    }
    assert_eq!(many.gradients.len(), one.gradients.len());
    assert_eq!(many.losses, one.losses, "{case:?}: losses and norms");
    for (many, one) in many.parameters.iter().zip(&one.parameters) {
        let differ =
            many.values.iter().zip(&one.values).position(|(a, b)| a.to_bits() != b.to_bits());
        assert_eq!((&many.path, differ), (&one.path, None), "{case:?}: parameters");
    }
    assert_eq!(many.parameters.len(), one.parameters.len());
}

/// Data, ZeRO, pipeline, accumulation and their products.
fn exact_cases() -> Vec<Case> {
    let pipeline = |stages, schedule, virtual_stages| Layout {
        pipeline: stages,
        schedule,
        virtual_stages,
        ..ONE
    };
    use Schedule::{GPipe, Interleaved, OneForwardOneBackward};
    vec![
        // Accumulation alone: the tree over one rank's micro-batches.
        case(5, ONE),
        // Each strategy alone.
        case(2, Layout { data: 2, ..ONE }),
        tied(case(9, Layout { data: 3, ..ONE })),
        case(4, Layout { data: 2, zero_stage: 1, ..ONE }),
        tied(case(6, Layout { data: 3, zero_stage: 1, ..ONE })),
        case(6, Layout { data: 3, zero_stage: 2, ..ONE }),
        tied(case(4, Layout { data: 4, zero_stage: 2, ..ONE })),
        case(4, Layout { data: 2, zero_stage: 3, ..ONE }),
        tied(case(10, Layout { data: 5, zero_stage: 3, ..ONE })),
        case(3, pipeline(2, GPipe, 1)),
        tied(case(5, pipeline(3, OneForwardOneBackward, 1))),
        case(4, pipeline(2, Interleaved, 2)),
        tied(case(3, pipeline(4, GPipe, 1))),
        // Pairs.
        case(4, Layout { data: 2, shard: 2, zero_stage: 1, ..ONE }),
        tied(case(8, Layout { data: 2, shard: 2, zero_stage: 2, ..ONE })),
        tied(case(6, Layout { data: 2, shard: 3, zero_stage: 3, ..ONE })),
        case(6, Layout { data: 3, ..pipeline(2, OneForwardOneBackward, 1) }),
        tied(case(6, Layout { data: 2, zero_stage: 1, ..pipeline(3, OneForwardOneBackward, 1) })),
        tied(case(8, Layout { data: 2, zero_stage: 2, ..pipeline(2, Interleaved, 2) })),
        case(4, Layout { data: 2, zero_stage: 3, ..pipeline(2, GPipe, 1) }),
        // A triple.
        tied(case(
            8,
            Layout { data: 2, shard: 2, zero_stage: 3, ..pipeline(2, OneForwardOneBackward, 1) },
        )),
    ]
}

#[test]
fn exact_layouts_have_the_bits_of_one_rank() {
    for case in exact_cases() {
        assert_same_bits(&case);
    }
}

/// Tensor and context alone, with each other and with everything else.
fn close_cases() -> Vec<Case> {
    let stages = |stages| Layout { pipeline: stages, ..ONE };
    let gqa = |case: Case| Case { n_kv_heads: 6, ..case };
    vec![
        case(2, Layout { tensor: 2, ..ONE }),
        gqa(tied(case(1, Layout { tensor: 3, ..ONE }))),
        tied(case(2, Layout { tensor: 2, sequence_parallel: true, ..ONE })),
        case(2, Layout { context: 2, ..ONE }),
        tied(case(1, Layout { context: 3, ..ONE })),
        // Pairs.
        tied(case(4, Layout { data: 2, tensor: 2, ..ONE })),
        case(4, Layout { data: 2, tensor: 2, zero_stage: 1, sequence_parallel: true, ..ONE }),
        tied(case(6, Layout { data: 3, tensor: 2, zero_stage: 3, ..ONE })),
        case(4, Layout { data: 2, context: 2, zero_stage: 2, ..ONE }),
        tied(case(3, Layout { tensor: 2, ..stages(2) })),
        case(3, Layout { context: 2, ..stages(2) }),
        case(2, Layout { tensor: 2, context: 2, ..ONE }),
        // Triples.
        tied(case(4, Layout { data: 2, tensor: 2, ..stages(2) })),
        tied(case(
            4,
            Layout { data: 2, tensor: 2, sequence_parallel: true, zero_stage: 2, ..stages(2) },
        )),
        case(4, Layout { data: 2, context: 2, zero_stage: 1, ..stages(2) }),
        tied(case(2, Layout { tensor: 2, context: 2, sequence_parallel: true, ..stages(2) })),
        case(4, Layout { data: 2, tensor: 2, context: 2, zero_stage: 3, ..ONE }),
    ]
}

/// The order of sums over heads, columns and positions differs from one rank's, so that a gradient differs by rounding:
/// 1e-5 of a tensor's largest element. AdamW divides by the root of the second moment, which for an element whose gradient
/// is itself rounding noise makes a step of full size in any direction: the parameters are reported, not bounded, and the
/// losses are held to 1e-4.
#[test]
fn other_layouts_are_within_rounding_of_one_rank() {
    for case in close_cases() {
        let (many, one) = both(&case);
        assert_eq!(many.first.tokens, one.first.tokens, "{case:?}");
        let off = (many.first.nats - one.first.nats).abs() / one.first.nats;
        assert!(off <= 1e-5, "{case:?}: loss off by {off:e}");
        let mut worst = 0f32;
        assert_eq!(many.gradients.len(), one.gradients.len());
        for (many, one) in many.gradients.iter().zip(&one.gradients) {
            assert_eq!((&many.path, &many.shape), (&one.path, &one.shape), "{case:?}");
            let path = format!("{case:?}: gradient of {}", one.path);
            worst = worst.max(common::assert_close(&path, &many.values, &one.values, 1e-5));
        }
        let mean = |(nats, tokens, _): &(u64, u64, u64)| f64::from_bits(*nats) / *tokens as f64;
        let apart = many.losses.iter().zip(&one.losses).map(|(a, b)| (mean(a) - mean(b)).abs());
        let apart = apart.fold(0f64, f64::max);
        assert!(apart <= 1e-4, "{case:?}: losses {apart:e} apart");
        let parameters = many.parameters.iter().zip(&one.parameters);
        let difference = parameters.flat_map(|(a, b)| a.values.iter().zip(&b.values));
        let difference = difference.fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        println!(
            "{}: gradients {worst:.1e}, losses {apart:.1e}, parameters {difference:.1e}",
            case.layout.describe()
        );
    }
}

#[test]
fn the_fast_reduction_is_close_and_sends_no_more() {
    for layout in [
        Layout { data: 3, ..ONE },
        Layout { data: 3, zero_stage: 1, ..ONE },
        Layout { data: 3, zero_stage: 2, ..ONE },
    ] {
        let case = case(9, Layout { reduction: Reduction::Fast, ..layout });
        let (many, one) = both(&case);
        assert!((many.first.nats - one.first.nats).abs() < 1e-5 * one.first.nats);
        for (many, one) in many.gradients.iter().zip(&one.gradients) {
            common::assert_close(&one.path, &many.values, &one.values, 1e-5);
        }
    }
}
