//! A model on a mesh of ranks, and one update of it.
//!
//! ```text
//! micro-batches --stages--> segments' gradients --replicas--> owners' sums --> norm, clip --> AdamW --> weights
//! ```
//!
//! One rank goes through the very same code: its groups have one member, and what crosses them costs nothing.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::Device;
use caravan_collective::{Communicator, ReduceOp, Traffic};
use caravan_model::{Attend, Kernels, Llama, LlamaConfig, WholeSequences};
use caravan_optim::{AdamW, ParamGroups, clip_scale};

use crate::context::{self, Ring};
use crate::error::Result;
use crate::executor::{Activations, MicroBatch};
use crate::loss::LossSum;
use crate::mesh::{Layout, Mesh, Place};
use crate::mutation;
use crate::pipeline::{self, WatchMicroBatch};
use crate::reduce::{Assignment, Owner};
use crate::store::{Piece, Store};
use crate::sums::Sums;
use crate::tensor;

/// What an update is told; everything else is state.
#[derive(Clone, Copy, Debug)]
pub struct StepSettings<'a> {
    /// Learning rate of this update.
    pub lr: f64,
    /// Decay of the parameters that decay.
    pub weight_decay: f64,
    /// Which parameters decay, and by what the learning rate of some is scaled.
    pub groups: &'a ParamGroups,
    /// Largest global gradient norm.
    pub grad_clip: f64,
    /// Keep or recompute.
    pub activations: Activations,
}

/// What an update gives; the same on every rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepOutcome {
    /// Loss before the update, as a sum.
    pub loss: LossSum,
    /// Gradient norm of the mean loss, before clipping.
    pub grad_norm: f64,
}

/// A number that is not finite, found before anything was changed.
#[derive(Clone, Debug, PartialEq)]
pub struct NotFinite {
    /// `the loss`, or which gradient.
    pub what: String,
    /// NaN or infinity.
    pub value: f64,
}

/// One rank's part of a model that is trained by all ranks of a mesh.
#[derive(Debug)]
pub struct Engine {
    pub(crate) layout: Layout,
    pub(crate) mesh: Mesh,
    pub(crate) place: Place,
    pub(crate) pieces: Vec<Piece>,
    pub(crate) store: Store,
    /// A message space of its own for the exchange of gradients, which may run beside everything else.
    pub(crate) exchange: Communicator,
    pub(crate) overlap: bool,
    /// Where sequences are divided.
    ring: Option<Ring>,
}

impl Engine {
    /// Takes this rank's part of `model`, which is the same on every rank (its slice of the matrices where the layout has
    /// tensor ranks). Called by all ranks of the mesh.
    pub fn new(model: Llama, layout: Layout, mesh: Mesh) -> Self {
        let place = Place::of(mesh.world.rank(), &layout);
        let pieces = pieces(model.config().n_layers, place.pipeline, &layout);
        let exchange = match mesh.replicas.size() {
            1 => Communicator::alone(),
            _ => mesh.replicas.duplicate("data"),
        };
        let ring = (layout.context > 1).then(|| Ring::new(mesh.context.clone()));
        let model = match &ring {
            Some(ring) => {
                let ring: Arc<dyn Attend> = Arc::new(ring.clone());
                model.with_attend(&ring)
            }
            None => model,
        };
        let mut store = Store::new(model, &pieces);
        if layout.zero_stage == 3 {
            let group = if layout.shard > 1 { &mesh.shard } else { &mesh.replicas };
            store = store.shard(group.clone());
        }
        Self { layout, mesh, place, pieces, store, exchange, overlap: true, ring }
    }

    /// An engine with initial weights: those of [`Llama::init`], whatever the layout. Called by all ranks of the mesh.
    ///
    /// # Errors
    /// The configuration breaks a rule, or cannot be cut over the tensor ranks.
    pub fn init(
        config: &LlamaConfig,
        seed: u64,
        kernels: Kernels,
        device: &Device,
        layout: Layout,
        mesh: Mesh,
    ) -> Result<Self> {
        let (group, divides) = (&mesh.tensor, layout.sequence_parallel);
        let model = tensor::init(config, seed, kernels, device, group, divides)?;
        Ok(Self::new(model, layout, mesh))
    }

    /// An engine of one rank.
    pub fn alone(model: Llama) -> Self {
        Self::new(model, Layout::default(), Mesh::alone())
    }

    /// Whether gradients are exchanged while backward runs; on by default. The bits are the same.
    #[must_use]
    pub fn with_overlap(mut self, overlap: bool) -> Self {
        self.overlap = overlap;
        self
    }

    /// The whole model's configuration.
    pub fn config(&self) -> &LlamaConfig {
        self.store.config()
    }

    /// Where the weights lie when in use.
    pub fn device(&self) -> &Device {
        self.store.device()
    }

    /// How the model is split.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The groups of this rank.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// What this rank sent and how long it took, waiting included, by axis, since the engine was made; axes of one rank
    /// are left out. The exchange of gradients counts to `data`, also where it runs beside backward.
    pub fn traffic(&self) -> Vec<(&'static str, Traffic)> {
        let Mesh { pipeline, replicas, data, shard, context, tensor, .. } = &self.mesh;
        let axes: [(&str, &[&Communicator]); 5] = [
            ("data", &[replicas, &self.exchange, data]),
            ("shard", &[shard]),
            ("context", &[context]),
            ("tensor", &[tensor]),
            ("pipeline", &[pipeline]),
        ];
        let sum = |groups: &[&Communicator]| {
            let traffics = groups.iter().filter(|group| group.size() > 1).map(|g| g.traffic());
            traffics.fold(Traffic::default(), |a, b| Traffic {
                calls: a.calls + b.calls,
                bytes_sent: a.bytes_sent + b.bytes_sent,
                secs: a.secs + b.secs,
            })
        };
        let is_used = |groups: &[&Communicator]| groups.iter().any(|group| group.size() > 1);
        let used = axes.into_iter().filter(|(_, groups)| is_used(groups));
        used.map(|(axis, groups)| (axis, sum(groups))).collect()
    }

    /// Multiply-adds of attention that this rank has done so far, by ring step; empty where sequences are whole.
    pub fn ring_work(&self) -> Vec<u64> {
        self.ring.as_ref().map(Ring::multiply_adds).unwrap_or_default()
    }

    /// The model, where one rank holds all of it.
    pub fn whole(&self) -> Option<Llama> {
        let model = self.store.whole().filter(|_| self.layout.tensor == 1)?;
        Some(self.with_whole_sequences(model))
    }

    /// The model back, where one rank holds all of it.
    pub fn into_whole(self) -> Option<Llama> {
        if self.layout.tensor > 1 || self.layout.context > 1 {
            return self.whole();
        }
        self.store.into_whole()
    }

    fn with_whole_sequences(&self, model: Llama) -> Llama {
        if self.layout.context == 1 {
            return model;
        }
        let whole: Arc<dyn Attend> = Arc::new(WholeSequences);
        model.with_attend(&whole)
    }

    /// Which micro-batches of a step of `n` this rank computes, by global index, in the order in which [`step`](Self::step)
    /// takes them.
    pub fn micro_batches(&self, n: usize) -> Vec<u64> {
        self.assignment(n).indices(self.place.replica(&self.layout))
    }

    /// One update over a step of `n` micro-batches; `batches` are this rank's ([`micro_batches`](Self::micro_batches)).
    ///
    /// # Errors
    /// The loss or a gradient is not finite, on every rank alike; model and optimizer are then as before.
    pub fn step(
        &mut self,
        optimizer: &mut AdamW,
        n: usize,
        batches: &[MicroBatch],
        settings: StepSettings<'_>,
    ) -> std::result::Result<StepOutcome, NotFinite> {
        let (sums, loss) = self.gradients(n, batches, settings.activations);
        if !loss.nats.is_finite() {
            return Err(NotFinite { what: "the loss".to_owned(), value: loss.nats });
        }
        let mean = 1.0 / loss.tokens.max(1) as f64;
        let (sums, norms) = self.norms(sums);
        // Of the sum's gradient; dividing the norm once costs nothing, dividing every element would.
        let grad_norm = norms.total.sqrt() * mean;
        if !grad_norm.is_finite() {
            return Err(self.first_not_finite(&sums));
        }
        let scale = mean * clip_scale(grad_norm, settings.grad_clip);
        self.update(optimizer, sums, scale, settings);
        Ok(StepOutcome { loss, grad_norm })
    }

    /// The gradient of the loss sum, summed over all micro-batches and ranks, and that loss. Of each segment this rank has
    /// the range that it owns among the replicas.
    pub(crate) fn gradients(
        &mut self,
        n: usize,
        batches: &[MicroBatch],
        activations: Activations,
    ) -> (Sums, LossSum) {
        self.gradients_watched(n, batches, activations, &|_, _, _| {})
    }

    /// The same, and `watch` sees what goes into every block and the head.
    pub(crate) fn gradients_watched(
        &mut self,
        n: usize,
        batches: &[MicroBatch],
        activations: Activations,
        watch: &WatchMicroBatch<'_>,
    ) -> (Sums, LossSum) {
        let assignment = self.assignment(n);
        let cut: Vec<MicroBatch>;
        let batches = match self.layout.context {
            1 => batches,
            ranks => {
                let cut_one = |batch| context::local_batch(batch, self.place.context, ranks);
                let all: Result<Vec<_>> = batches.iter().map(cut_one).collect();
                cut = all.expect("the layout was checked for this sequence length");
                &cut
            }
        };
        let owner = Owner::new(self.exchange.clone(), self.store.layouts());
        // Graphs that wait for backward would hold on to the gathered weights.
        let activations =
            if self.store.is_sharded() { Activations::Recompute } else { activations };
        let work = pipeline::Work {
            store: &self.store,
            pieces: &self.pieces,
            pipeline: &self.mesh.pipeline,
            layout: &self.layout,
            assignment: &assignment,
            replica: self.place.replica(&self.layout),
            batches,
            activations,
            watch,
        };
        let (mut sums, losses) = pipeline::run(&work, owner, self.overlap);
        let loss = self.loss(&losses, &assignment);
        self.finish_tied(&mut sums);
        self.finish_context(&mut sums);
        self.finish_tensor(&mut sums);
        (sums, loss)
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }

    pub(crate) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// This rank's index on every axis.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Shape of a parameter in the whole model, and the slice of it that is here.
    pub(crate) fn global(
        &self,
        path: &str,
        shape: &[usize],
    ) -> (Vec<usize>, Option<(usize, Range<usize>)>) {
        if self.layout.tensor == 1 {
            return (shape.to_vec(), None);
        }
        let (whole, slice) = self.slice(path, shape, self.place.tensor);
        (whole, slice.dim.map(|dim| (dim, slice.start..slice.start + slice.extent)))
    }

    /// Shape of a parameter in the whole model, and what a tensor rank holds of it, from its shape on this rank.
    pub(crate) fn slice(
        &self,
        path: &str,
        shape: &[usize],
        rank: usize,
    ) -> (Vec<usize>, tensor::Slice) {
        let whole = tensor::whole_shape(path, shape, self.config());
        let slice = tensor::slice_of(path, &whole, self.config(), rank, self.layout.tensor);
        (whole, slice)
    }

    fn assignment(&self, n: usize) -> Assignment {
        let each_time = self.layout.zero_stage >= 2;
        Assignment::new(n, self.layout.replicas(), each_time, self.layout.reduction)
    }

    /// The step's loss in tree order; known to all ranks in the end.
    fn loss(&self, losses: &[LossSum], assignment: &Assignment) -> LossSum {
        let mut pair = [0.0; 2];
        if self.pieces.iter().any(|piece| piece.last) {
            // This rank's micro-batches; with parts of sequences each rank has the targets of its part.
            let mut mine: Vec<f64> =
                losses.iter().flat_map(|l| [l.nats, l.tokens as f64]).collect();
            let is_partial = mutation::on("loss_of_own_part");
            if !is_partial {
                self.mesh.context.all_reduce(ReduceOp::Sum, &mut mine);
            }
            let mut all = self.mesh.replicas.all_gather_v(&mine);
            if is_partial {
                let own = self.mesh.replicas.rank();
                let others = all.iter_mut().enumerate().filter(|(replica, _)| *replica != own);
                others.for_each(|(_, values)| values.fill(0.0));
            }
            let loss = assignment.sum_losses(&all);
            pair = [loss.nats, loss.tokens as f64];
        }
        self.mesh.pipeline.broadcast(self.mesh.pipeline.size() - 1, &mut pair);
        LossSum { nats: pair[0], tokens: pair[1] as u64 }
    }
}

/// What a pipeline rank holds, first piece first.
pub(crate) fn pieces(n_layers: usize, rank: usize, layout: &Layout) -> Vec<Piece> {
    let count = layout.n_pieces();
    (0..layout.virtual_stages)
        .map(|i| i * layout.pipeline + rank)
        .map(|index| Piece {
            first: index == 0,
            blocks: blocks_of(index, count, n_layers),
            last: index + 1 == count,
        })
        .collect()
}

/// The blocks of the model's piece `index` of `count`, as even as possible; the pieces at the ends, which also have the
/// embedding and the head, are not larger than others.
pub(crate) fn blocks_of(index: usize, count: usize, n_layers: usize) -> Range<usize> {
    index * n_layers / count..(index + 1) * n_layers / count
}
