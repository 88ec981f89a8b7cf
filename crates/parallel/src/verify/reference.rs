//! What one rank gives: the numbers that all others are held against.

use std::cell::RefCell;
use std::collections::BTreeMap;

use burn::tensor::{DType, Tensor};
use caravan_optim::{AdamW, AdamWConfig, ParamGroups, Placement};

use super::part::Part;
use super::report::Demand;
use super::{Case, UPDATES};
use crate::collect::Values;
use crate::engine::{Engine, NotFinite, StepOutcome, StepSettings};
use crate::error::Result;
use crate::executor::Segment;
use crate::loss::LossSum;
use crate::mesh::{Layout, Mesh};

/// Where bits are compared a large one, that shows any difference.
const LR_EXACT: f64 = 1e-2;
const LR_CLOSE: f64 = 1e-3;

/// AdamW divides by the root of the second moment plus this. With the usual 1e-8 an element whose gradient is itself
/// rounding noise makes a step of full size in any direction; with this one the update follows the gradient, and so
/// does its rounding.
const EPS_CLOSE: f64 = 1e-3;

/// What a rank sees before each block and the head, by micro-batch.
pub(super) type Stream = BTreeMap<(u64, Segment), Vec<f32>>;

/// One rank's run.
#[derive(Debug)]
pub(super) struct Reference {
    pub(super) stream: Stream,
    pub(super) loss: LossSum,
    /// In visit order.
    pub(super) gradients: Vec<Values>,
    /// Below the norm of the first update, so that clipping has an effect.
    pub(super) grad_clip: f64,
    /// What each of [`UPDATES`] updates gave, and every parameter after it.
    pub(super) updates: std::result::Result<Vec<(StepOutcome, Vec<Values>)>, NotFinite>,
}

impl Reference {
    /// Runs `case` on one rank.
    pub(super) fn new(case: &Case) -> Result<Self> {
        let mut engine = case.engine(Layout::default(), Mesh::alone())?;
        let (sums, loss, stream) = case.watched(&mut engine);
        let gradients = whole(engine.gradient_parts(&sums));
        let squares = gradients.iter().flat_map(|g| &g.values).map(|x| f64::from(*x).powi(2));
        let grad_clip = squares.sum::<f64>().sqrt() / loss.tokens.max(1) as f64 / 2.0;
        let updates = case.updates(&mut engine, grad_clip, &mut |engine, outcome| {
            (outcome, whole(engine.weight_parts()))
        });
        Ok(Self { stream, loss, gradients, grad_clip, updates })
    }
}

/// What one rank has is all of it.
fn whole(parts: Vec<Part>) -> Vec<Values> {
    let values = |part: Part| Values { path: part.path, shape: part.shape, values: part.values };
    parts.into_iter().map(values).collect()
}

impl Case {
    /// A rank's engine with initial weights.
    pub(super) fn engine(&self, layout: Layout, mesh: Mesh) -> Result<Engine> {
        let device = self.device.clone().autodiff();
        Engine::init(&self.model, self.seed, self.kernels, &device, layout, mesh)
    }

    /// The gradients of the first step, its loss, and the residual stream on the way.
    pub(super) fn watched(&self, engine: &mut Engine) -> (crate::sums::Sums, LossSum, Stream) {
        let stream = RefCell::new(Stream::new());
        let watch = |micro: u64, segment: Segment, x: &Tensor<3>| {
            let data = x.clone().cast(DType::F32).into_data();
            let values = data.try_into_vec::<f32>().expect("just cast");
            stream.borrow_mut().insert((micro, segment), values);
        };
        let batches = self.batches(engine, 0);
        let (sums, loss) =
            engine.gradients_watched(self.n_micro_batches, &batches, self.activations, &watch);
        (sums, loss, stream.into_inner())
    }

    /// [`UPDATES`] updates; `see` is called after each.
    ///
    /// # Errors
    /// The first one that is not possible.
    pub(super) fn updates<T>(
        &self,
        engine: &mut Engine,
        grad_clip: f64,
        see: &mut dyn FnMut(&Engine, StepOutcome) -> T,
    ) -> std::result::Result<Vec<T>, NotFinite> {
        let (lr, adamw) = match self.demand() {
            Demand::SameBits => (LR_EXACT, self.adamw),
            Demand::Within(_) => (LR_CLOSE, AdamWConfig { eps: EPS_CLOSE, ..self.adamw }),
        };
        let mut optimizer = AdamW::new(adamw, Placement::Device).expect("a valid configuration");
        let groups = ParamGroups::default();
        let (weight_decay, activations) = (self.weight_decay, self.activations);
        let settings = StepSettings { lr, weight_decay, groups: &groups, grad_clip, activations };
        let update = |step| {
            let batches = self.batches(engine, step);
            let n = self.n_micro_batches;
            let outcome = engine.step(&mut optimizer, n, &batches, settings)?;
            Ok(see(engine, outcome))
        };
        (0..UPDATES).map(update).collect()
    }

    fn batches(&self, engine: &Engine, step: usize) -> Vec<crate::executor::MicroBatch> {
        let indices = engine.micro_batches(self.n_micro_batches);
        indices.into_iter().map(|index| self.batch(step, index)).collect()
    }
}
