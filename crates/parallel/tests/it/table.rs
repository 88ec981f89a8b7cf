//! The table of layouts, and the comparison of a layout with one rank.

use std::fmt;

use caravan_collective::{Communicator, threads};
use caravan_model::{Kernels, LlamaConfig};
use caravan_optim::{AdamW, AdamWConfig, ParamGroups, Placement};
use caravan_parallel::{
    Activations, Engine, Layout, LossSum, Mesh, MicroBatch, Place, Reduction, Schedule,
    StepSettings, Values,
};

use crate::common;

pub(crate) const SEQ_LEN: usize = 12;
pub(crate) const ROWS: usize = 2;

/// Of a tensor's largest element, and of a loss: what the order of sums may change.
pub(crate) const TOLERANCE: f32 = 1e-5;

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) layout: Layout,
    /// Micro-batches of a step, over all replicas.
    pub(crate) n: usize,
    pub(crate) tied: bool,
    pub(crate) n_kv_heads: usize,
    pub(crate) n_layers: usize,
    /// Whether linear layers have biases.
    pub(crate) biased: bool,
}

impl Case {
    /// Whether the bits are those of one rank.
    pub(crate) fn is_exact(&self) -> bool {
        let Layout { tensor, context, reduction, .. } = self.layout;
        tensor * context == 1 && reduction == Reduction::Exact
    }

    /// Learning rate; where bits are compared a large one, that shows any difference.
    fn lr(&self) -> f64 {
        if self.is_exact() { 1e-2 } else { 1e-3 }
    }

    pub(crate) fn config(&self) -> LlamaConfig {
        LlamaConfig {
            n_kv_heads: self.n_kv_heads,
            n_layers: self.n_layers,
            d_ff: 102,
            attention_bias: self.biased,
            mlp_bias: self.biased,
            ..common::config(self.tied)
        }
    }

    pub(crate) fn batch(&self, step: usize, index: u64) -> MicroBatch {
        let seed = step * self.n + index as usize;
        common::batch(self.config().vocab_size, ROWS, SEQ_LEN, seed, index.is_multiple_of(2))
    }
}

pub(crate) const ONE: Layout = Layout {
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
    Case { layout, n, tied: false, n_kv_heads: 2, n_layers: 4, biased: false }
}

fn tied(case: Case) -> Case {
    Case { tied: true, ..case }
}

fn biased(case: Case) -> Case {
    Case { biased: true, ..case }
}

/// Data, ZeRO, pipeline, accumulation and their products.
pub(crate) fn exact_cases() -> Vec<Case> {
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
        biased(case(6, Layout { data: 3, zero_stage: 2, ..ONE })),
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

/// Tensor and context alone, with each other and with everything else.
pub(crate) fn close_cases() -> Vec<Case> {
    let stages = |stages| Layout { pipeline: stages, ..ONE };
    let gqa = |case: Case| Case { n_kv_heads: 6, ..case };
    vec![
        case(2, Layout { tensor: 2, ..ONE }),
        biased(case(2, Layout { tensor: 2, ..ONE })),
        biased(case(2, Layout { tensor: 2, sequence_parallel: true, ..ONE })),
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

/// Sums in which the order of additions is given up.
pub(crate) fn fast_cases() -> Vec<Case> {
    let fast = |layout| case(9, Layout { data: 3, reduction: Reduction::Fast, ..layout });
    vec![fast(ONE), fast(Layout { zero_stage: 1, ..ONE }), fast(Layout { zero_stage: 2, ..ONE })]
}

/// What one run gives: gradients and loss of the first step, losses and norms of all, parameters at the end.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Run {
    gradients: Vec<Values>,
    first: LossSum,
    steps: Vec<Step>,
    parameters: Vec<Values>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Step {
    loss: LossSum,
    grad_norm: f64,
}

/// A case on one rank.
pub(crate) fn one_rank(case: &Case, steps: usize) -> Run {
    run(case, ONE, Mesh::alone(), steps).0
}

/// A rank's run, and its work by ring step.
fn run(case: &Case, layout: Layout, mesh: Mesh, steps: usize) -> (Run, Vec<u64>) {
    let config = case.config();
    layout.check(&config, SEQ_LEN, ROWS, ROWS * case.n).unwrap();
    let device = common::device();
    let mut engine = Engine::init(&config, 11, Kernels::Fused, &device, layout, mesh).unwrap();
    let indices = engine.micro_batches(case.n);
    let batches = |step| indices.iter().map(|i| case.batch(step, *i)).collect::<Vec<_>>();
    let (gradients, first) = engine.all_gradients(case.n, &batches(0), Activations::Keep);
    let mut optimizer = AdamW::new(AdamWConfig::default(), Placement::Host).unwrap();
    let groups = ParamGroups::default();
    let steps = (0..steps).map(|step| {
        let settings = StepSettings {
            lr: case.lr(),
            weight_decay: 0.1,
            groups: &groups,
            grad_clip: 1.0,
            activations: if step % 2 == 0 { Activations::Keep } else { Activations::Recompute },
        };
        let outcome = engine.step(&mut optimizer, case.n, &batches(step), settings).unwrap();
        Step { loss: outcome.loss, grad_norm: outcome.grad_norm }
    });
    let steps = steps.collect();
    let work = engine.ring_work();
    (Run { gradients, first, steps, parameters: engine.all_parameters() }, work)
}

/// The largest differences of a layout that is not held to the bits, each over the largest element or value.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Apart {
    pub(crate) gradients: f32,
    pub(crate) losses: f64,
    pub(crate) parameters: f32,
}

impl fmt::Display for Apart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { gradients, losses, parameters } = self;
        write!(f, "gradients {gradients:.1e}, losses {losses:.1e}, parameters {parameters:.1e}")
    }
}

/// Runs a case on its ranks and holds it against one rank's run of as many steps.
///
/// # Errors
/// What differs first: the ranks from each other, or from one rank.
pub(crate) fn compare(case: &Case, one: &Run) -> Result<Apart, String> {
    let steps = one.steps.len();
    let runs = threads::run(case.layout.world(), |world| {
        let mesh = Mesh::new(world.checked(), &case.layout).unwrap();
        run(case, case.layout, mesh, steps)
    });
    let runs = runs.map_err(|failed| format!("no result: {failed}"))?;
    for (rank, (other, _)) in runs.iter().enumerate() {
        if *other != runs[0].0 {
            return Err(format!("rank {rank} tells something else than rank 0"));
        }
    }
    // Sums first: what changes them is the graver fault.
    let apart = judge(case, &runs[0].0, one)?;
    balanced(case, &runs.iter().map(|(_, work)| work.as_slice()).collect::<Vec<_>>())?;
    Ok(apart)
}

/// Runs a case as one of the ranks of `world` and holds it against one rank's run, which each of them does by itself.
///
/// # Errors
/// What differs first.
#[allow(dead_code)] // only the program over MPI holds one rank of a launched world
pub(crate) fn hold(case: &Case, world: Communicator, steps: usize) -> Result<Apart, String> {
    let mesh = Mesh::new(world, &case.layout).map_err(|error| error.to_string())?;
    let (many, _) = run(case, case.layout, mesh, steps);
    judge(case, &many, &one_rank(case, steps))
}

fn judge(case: &Case, many: &Run, one: &Run) -> Result<Apart, String> {
    let expect = |is_so: bool, what: &str| if is_so { Ok(()) } else { Err(what.to_owned()) };
    expect(many.first.tokens == one.first.tokens, "tokens")?;
    expect(many.gradients.len() == one.gradients.len(), "number of gradients")?;
    expect(many.parameters.len() == one.parameters.len(), "number of parameters")?;
    match case.is_exact() {
        true => same_bits(many, one).map(|()| Apart::default()),
        false => close(many, one),
    }
}

fn same_bits(many: &Run, one: &Run) -> Result<(), String> {
    if many.first != one.first {
        return Err(format!("loss {:?} for {:?}", many.first, one.first));
    }
    same_values("gradient", &many.gradients, &one.gradients)?;
    for (step, (many, one)) in many.steps.iter().zip(&one.steps).enumerate() {
        if many != one {
            return Err(format!("step {step}: {many:?} for {one:?}"));
        }
    }
    same_values("parameter", &many.parameters, &one.parameters)
}

fn same_values(kind: &str, many: &[Values], one: &[Values]) -> Result<(), String> {
    for (many, one) in many.iter().zip(one) {
        let pairs = many.values.iter().zip(&one.values);
        let differ = pairs.clone().position(|(a, b)| a.to_bits() != b.to_bits());
        if (&many.path, &many.shape, differ) != (&one.path, &one.shape, None) {
            return Err(format!("{kind} {} of {}: {differ:?}", many.path, one.path));
        }
    }
    Ok(())
}

/// The order of sums over heads, columns and positions differs from one rank's, so that a gradient differs by rounding:
/// 1e-5 of a tensor's largest element. AdamW divides by the root of the second moment, which for an element whose gradient
/// is itself rounding noise makes a step of full size in any direction: the parameters are reported, not bounded, and the
/// losses are held to 1e-4. The norm of the first step has seen the same parameters.
fn close(many: &Run, one: &Run) -> Result<Apart, String> {
    let relative = |many: f64, one: f64| (many - one).abs() / one;
    let bound = |what: &str, off: f64, most: f64| {
        if off <= most { Ok(()) } else { Err(format!("{what} off by {off:e}")) }
    };
    let tolerance = f64::from(TOLERANCE);
    bound("loss", relative(many.first.nats, one.first.nats), tolerance)?;
    let mut apart = Apart::default();
    for (many, one) in many.gradients.iter().zip(&one.gradients) {
        if (&many.path, &many.shape) != (&one.path, &one.shape) {
            return Err(format!("{} in the place of {}", many.path, one.path));
        }
        let worst = common::close(&many.values, &one.values, TOLERANCE);
        let worst = worst.map_err(|what| format!("gradient {}: {what}", one.path))?;
        apart.gradients = apart.gradients.max(worst);
    }
    let first = (&many.steps[0], &one.steps[0]);
    bound("norm of step 0", relative(first.0.grad_norm, first.1.grad_norm), tolerance)?;
    for (step, (many, one)) in many.steps.iter().zip(&one.steps).enumerate() {
        let off = (many.loss.mean() - one.loss.mean()).abs();
        bound(&format!("loss of step {step}"), off, 1e-4)?;
        apart.losses = apart.losses.max(off);
    }
    let parameters = many.parameters.iter().zip(&one.parameters);
    let values = parameters.flat_map(|(a, b)| a.values.iter().zip(&b.values));
    apart.parameters = values.fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    Ok(apart)
}

/// Whether the ranks that share a sequence do the same work at every ring step, and some.
fn balanced(case: &Case, work: &[&[u64]]) -> Result<(), String> {
    let first = |rank: usize| {
        let place = Place::of(rank, &case.layout);
        let is_first = |other: &usize| {
            Place { context: place.context, ..Place::of(*other, &case.layout) } == place
        };
        (0..work.len()).find(is_first).unwrap()
    };
    for (rank, steps) in work.iter().enumerate() {
        for (step, n) in steps.iter().enumerate() {
            let expected = work[first(rank)][step];
            if *n != expected || *n == 0 {
                return Err(format!(
                    "work of ring step {step}: rank {rank} does {n}, not {expected}"
                ));
            }
        }
    }
    Ok(())
}
