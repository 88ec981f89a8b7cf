//! A model on a mesh of ranks, and one update of it.
//!
//! ```text
//! micro-batches --stages--> segments' gradients --replicas--> owners' sums --> norm, clip --> AdamW --> weights
//! ```
//!
//! One rank goes through the very same code: its groups have one member, and what crosses them costs nothing.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor, TensorData};
use caravan_collective::{Communicator, ReduceOp};
use caravan_model::{Attend, Kernels, Llama, LlamaConfig, WholeSequences};
use caravan_optim::{AdamW, BLOCK, OptimError, ParamGroups, clip_scale, sum_in_order};

use crate::context::{self, Ring};
use crate::error::Result;
use crate::executor::{Activations, MicroBatch, Segment};
use crate::loss::LossSum;
use crate::mesh::{Layout, Mesh, Place};
use crate::mutation;
use crate::pipeline;
use crate::reduce::{Assignment, Owner};
use crate::segments::{Portion, SegmentLayout};
use crate::store::{Piece, Store};
use crate::tensor;

/// What an update is told; everything else is state.
#[derive(Clone, Copy, Debug)]
pub struct StepSettings<'a> {
    /// Learning rate of this update.
    pub lr: f64,
    /// Decay of the parameters that decay.
    pub weight_decay: f64,
    /// Which parameters decay.
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
    layout: Layout,
    mesh: Mesh,
    place: Place,
    pieces: Vec<Piece>,
    store: Store,
    /// A message space of its own for the exchange of gradients, which may run beside everything else.
    exchange: Communicator,
    overlap: bool,
}

/// The summed gradients of an update as this rank holds them: of each segment the portions of its range, in order.
pub(crate) type Sums = BTreeMap<Segment, Held>;

/// A range of a segment's gradient.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// In the segment's flat index.
    pub(crate) range: Range<usize>,
    /// One plain tensor for each of [`SegmentLayout::portions`] of the range.
    pub(crate) values: Vec<Tensor<1>>,
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
        let model = if layout.context > 1 {
            let ring: Arc<dyn Attend> = Arc::new(Ring::new(mesh.context.clone()));
            model.with_attend(&ring)
        } else {
            model
        };
        let mut store = Store::new(model, &pieces);
        if layout.zero_stage == 3 {
            let group = if layout.shard > 1 { &mesh.shard } else { &mesh.replicas };
            store = store.shard(group.clone());
        }
        Self { layout, mesh, place, pieces, store, exchange, overlap: true }
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

    /// How the model is split.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The groups of this rank.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
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
        };
        let (mut sums, losses) = pipeline::run(&work, owner, self.overlap);
        let loss = self.loss(&losses, &assignment);
        self.finish_tied(&mut sums);
        self.finish_context(&mut sums);
        self.finish_sequence_parallel(&mut sums);
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

    /// The range of a segment whose optimizer state this rank keeps.
    pub(crate) fn state_range(&self, layout: &SegmentLayout) -> Range<usize> {
        match (self.layout.zero_stage, self.layout.shard) {
            (0, _) => 0..layout.len(),
            (_, 1) => layout.part(self.place.replica(&self.layout), self.layout.replicas()),
            (_, n) => layout.part(self.place.shard, n),
        }
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
        let slice = self.slice(path, self.place.tensor);
        let whole = self.global_shape(path);
        (whole, slice.dim.map(|dim| (dim, slice.start..slice.start + slice.extent)))
    }

    /// Shape of a parameter in the whole model.
    pub(crate) fn global_shape(&self, path: &str) -> Vec<usize> {
        let all = self.config().parameters();
        let info = all.into_iter().find(|info| info.path == path);
        info.expect("a parameter of the model").shape
    }

    /// What a tensor rank holds of a parameter.
    pub(crate) fn slice(&self, path: &str, rank: usize) -> tensor::Slice {
        let shape = self.global_shape(path);
        tensor::slice_of(path, &shape, self.config(), rank, self.layout.tensor)
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
            self.mesh.context.all_reduce(ReduceOp::Sum, &mut mine);
            let all = self.mesh.replicas.all_gather_v(&mine);
            let loss = assignment.sum_losses(&all);
            pair = [loss.nats, loss.tokens as f64];
        }
        self.mesh.pipeline.broadcast(self.mesh.pipeline.size() - 1, &mut pair);
        LossSum { nats: pair[0], tokens: pair[1] as u64 }
    }

    /// Adds the two uses of a tied embedding, lookup first. On a pipeline the first and the last rank hold one sum each;
    /// they exchange them, and both do the same addition and later the same update.
    fn finish_tied(&self, sums: &mut Sums) {
        if !self.config().tie_embeddings {
            return;
        }
        let pipeline = &self.mesh.pipeline;
        let last = pipeline.size() - 1;
        let at_an_end = pipeline.rank() == 0 || pipeline.rank() == last;
        if pipeline.size() > 1 && at_an_end {
            let (own, theirs, peer) = match pipeline.rank() {
                0 => (Segment::Embed, Segment::Tied, last),
                _ => (Segment::Tied, Segment::Embed, 0),
            };
            let held = sums.get(&own).expect("each end has its use").clone();
            let mine = self.flat(&held);
            pipeline.send(peer, TIED, &mine);
            let mut other = vec![0.0f32; mine.len()];
            pipeline.recv(peer, TIED, &mut other);
            sums.insert(theirs, self.held(Segment::Embed, held.range, &other));
        }
        if let Some(tied) = sums.remove(&Segment::Tied)
            && !mutation::on("skip the tied gradient")
        {
            let lookup = sums.get_mut(&Segment::Embed).expect("the lookup has a gradient");
            let both = std::mem::take(&mut lookup.values).into_iter().zip(tied.values);
            lookup.values = both.map(|(lookup, head)| lookup.add(head)).collect();
        }
    }

    /// Context ranks have parts of the same sequences, so their gradients are parts of one sum.
    fn finish_context(&self, sums: &mut Sums) {
        let group = &self.mesh.context;
        if group.size() == 1 || mutation::on("drop the context reduction") {
            return;
        }
        for (segment, held) in sums {
            let mut flat = self.flat(held);
            group.all_reduce(ReduceOp::Sum, &mut flat);
            *held = self.held(*segment, held.range.clone(), &flat);
        }
    }

    /// With sequence parallelism the norms saw a part of the sequence on each tensor rank. They are small: every rank
    /// brings them together whole, adds the tensor ranks' in rank order, and keeps its portions.
    fn finish_sequence_parallel(&self, sums: &mut Sums) {
        let group = &self.mesh.tensor;
        if group.size() == 1
            || !self.layout.sequence_parallel
            || mutation::on("tensor_norms_not_summed")
        {
            return;
        }
        let replicas = self.mesh.replicas.size();
        for (segment, held) in sums {
            let layout = self.store.layout(*segment);
            let is_norm = |portion: &Portion| {
                tensor::sums_over_tensor_axis(&layout.params[portion.param].path, true)
            };
            let mine: Vec<f32> = layout
                .portions(&held.range)
                .iter()
                .zip(&held.values)
                .filter(|(portion, _)| is_norm(portion))
                .flat_map(|(_, values)| host(values.clone()))
                .collect();
            let whole = self.mesh.replicas.all_gather_v(&mine).concat();
            let of_ranks = group.all_gather_v(&whole);
            let add = |sum: Vec<f32>, part: Vec<f32>| {
                sum.iter().zip(&part).map(|(a, b)| a + b).collect::<Vec<f32>>()
            };
            let whole = of_ranks.into_iter().reduce(add).expect("a group has a rank");
            // Norms of the ranks before this one come first.
            let before: usize = (0..self.place.replica(&self.layout))
                .flat_map(|r| layout.portions(&layout.part(r, replicas)))
                .filter(is_norm)
                .map(|portion| portion.within.len())
                .sum();
            let mut rest = &whole[before..];
            let device = self.store.device().clone().without_autodiff();
            for (portion, values) in layout.portions(&held.range).iter().zip(&mut held.values) {
                if is_norm(portion) {
                    let (now, later) = rest.split_at(portion.within.len());
                    let data = TensorData::new(now.to_vec(), [now.len()]);
                    *values = Tensor::from_data(data, (&device, DType::F32));
                    rest = later;
                }
            }
        }
    }

    /// Squared norms over all ranks, every parameter counted once; gradients come back untouched.
    fn norms(&self, sums: Sums) -> (Sums, Norms) {
        let mut kept = Sums::new();
        let mut blocks: BTreeMap<Segment, Vec<f64>> = BTreeMap::new();
        for (segment, held) in sums {
            let mut values = Vec::with_capacity(held.values.len());
            let mut own = Vec::new();
            for tensor in held.values {
                let (tensor, sums) = caravan_optim::tensor_block_sums(tensor);
                values.push(tensor);
                own.extend(sums);
            }
            kept.insert(segment, Held { range: held.range, values });
            let mut all = self.mesh.replicas.all_gather_v(&own).concat();
            if mutation::on("scale by the group's size") {
                all.iter_mut().for_each(|sum| *sum *= self.mesh.replicas.size() as f64);
            }
            blocks.insert(segment, all);
        }
        (kept, self.norms_of(&blocks))
    }

    /// Adds up block sums: over the blocks of a parameter, over the tensor ranks that have slices of it, and over the
    /// parameters of all pipeline ranks in visit order.
    fn norms_of(&self, blocks: &BTreeMap<Segment, Vec<f64>>) -> Norms {
        let mut mine: Vec<f64> = Vec::new();
        for layout in self.store.layouts() {
            let mut sums = blocks[&layout.segment].iter().copied();
            for param in &layout.params {
                let n = param.range.len().div_ceil(BLOCK);
                mine.push(sum_in_order(sums.by_ref().take(n)));
            }
        }
        if self.mesh.tensor.size() > 1 {
            let of_ranks = self.mesh.tensor.all_gather_v(&mine);
            let params = self.store.layouts().iter().flat_map(|layout| &layout.params);
            for (i, param) in params.enumerate() {
                // A matrix has a slice on each rank; a norm is the same one on all of them.
                if self.global(&param.path, &param.shape).1.is_some() {
                    mine[i] = sum_in_order(of_ranks.iter().map(|values| values[i]));
                }
            }
        }
        // The last rank's copy of a tied embedding is the first rank's parameter.
        let copy = self.mesh.pipeline.size() > 1
            && !self.pieces.iter().any(|piece| piece.first)
            && self.store.layouts()[0].segment == Segment::Embed;
        if copy && !mutation::on("double-count a norm") {
            mine.remove(0);
        }
        // Segments of interleaved pieces are not neighbours: pieces are put in the model's order.
        let all = self.mesh.pipeline.all_gather_v(&mine);
        let total = sum_in_order(self.in_visit_order(&all));
        Norms { total }
    }

    /// The numbers of all pipeline ranks, one for each parameter, in visit order.
    fn in_visit_order(&self, of_ranks: &[Vec<f64>]) -> Vec<f64> {
        if of_ranks.len() == 1 {
            return of_ranks[0].clone();
        }
        let per_block =
            self.config().parameters().iter().filter(|p| p.path.starts_with("blocks.0.")).count();
        let n_layers = self.config().n_layers;
        let mut from: Vec<_> = of_ranks.iter().map(|values| values.iter().copied()).collect();
        let mut out = Vec::new();
        for piece in 0..self.layout.n_pieces() {
            let rank = piece % self.layout.pipeline;
            if piece == 0 {
                out.extend(from[rank].by_ref().take(1));
            }
            let n = blocks_of(piece, self.layout.n_pieces(), n_layers).len() * per_block;
            out.extend(from[rank].by_ref().take(n));
        }
        let last = (self.layout.n_pieces() - 1) % self.layout.pipeline;
        out.extend(from[last].by_ref());
        out
    }

    fn first_not_finite(&self, sums: &Sums) -> NotFinite {
        let mut found = None;
        'search: for (segment, held) in sums {
            let layout = self.store.layout(*segment);
            for (portion, values) in layout.portions(&held.range).iter().zip(&held.values) {
                let param = &layout.params[portion.param];
                let data = values.clone().into_data();
                let values = data.as_slice::<f32>().expect("gradients are f32");
                if let Err(OptimError::NotFinite { index, value, .. }) =
                    caravan_optim::first_not_finite(&param.path, values)
                {
                    let index = portion.within.start + index;
                    found = Some((param, index, value));
                    break 'search;
                }
            }
        }
        let message = found.map(|(param, index, value)| {
            let what =
                format!("the gradient of `{}` {:?} at element {index}", param.path, param.shape);
            (what, value)
        });
        // All ranks say the same: what the first rank with something to say found.
        let mine = message.as_ref().map_or_else(Vec::new, |(what, value)| {
            [&value.to_le_bytes()[..], what.as_bytes()].concat()
        });
        let all = self.mesh.world.all_gather_v(&mine);
        match all.into_iter().find(|bytes| bytes.len() > 4) {
            Some(bytes) => NotFinite {
                what: String::from_utf8_lossy(&bytes[4..]).into_owned(),
                value: f64::from(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
            },
            None => NotFinite {
                what: "the gradient norm (every element is finite, their squares are not)"
                    .to_owned(),
                value: f64::INFINITY,
            },
        }
    }

    fn update(
        &mut self,
        optimizer: &mut AdamW,
        mut sums: Sums,
        scale: f64,
        settings: StepSettings<'_>,
    ) {
        let segments: Vec<Segment> = self.store.layouts().iter().map(|l| l.segment).collect();
        for segment in segments {
            let held = sums.remove(&segment).expect("a gradient for every segment");
            let layout = self.store.layout(segment).clone();
            let held = self.spread(&layout, held);
            let decay = |path: &str, shape: &[usize]| {
                settings.groups.decay(path, shape, settings.weight_decay)
            };
            // A rank's part may happen to be all of a small segment; others still wait for it.
            if self.layout.zero_stage == 0 {
                let mut gradients = held.values.into_iter();
                self.store.map(segment, &mut |path, shape, weight| {
                    let gradient = gradients.next().expect("a gradient for every parameter");
                    optimizer.step_scaled(
                        path,
                        weight,
                        gradient,
                        scale,
                        settings.lr,
                        decay(path, shape),
                    )
                });
                continue;
            }
            let weights =
                self.held(segment, held.range.clone(), &self.store.values(segment, &held.range));
            let portions = layout.portions(&held.range);
            let mut updated = Vec::with_capacity(held.range.len());
            for ((portion, weight), gradient) in
                portions.iter().zip(weights.values).zip(held.values)
            {
                let param = &layout.params[portion.param];
                let decay = decay(&param.path, &param.shape);
                let weight =
                    optimizer.step_scaled(&param.path, weight, gradient, scale, settings.lr, decay);
                updated.extend(host(weight));
            }
            let updated = if self.store.is_sharded() {
                updated
            } else {
                self.state_group().all_gather_v(&updated).concat()
            };
            self.store.replace(segment, updated);
        }
    }

    /// From the range that this rank owns in the sum to the range whose update it does.
    fn spread(&self, layout: &SegmentLayout, held: Held) -> Held {
        let range = self.state_range(layout);
        let group = match (self.layout.zero_stage, self.layout.shard) {
            (0, _) => &self.mesh.replicas,
            (_, 1) => return held,
            _ => &self.mesh.data,
        };
        if group.size() == 1 {
            return held;
        }
        let all = group.all_gather_v(&self.flat(&held)).concat();
        self.held(layout.segment, range, &all)
    }

    /// The ranks that divide the optimizer's state.
    pub(crate) fn state_group(&self) -> &Communicator {
        if self.layout.shard > 1 { &self.mesh.shard } else { &self.mesh.replicas }
    }

    fn flat(&self, held: &Held) -> Vec<f32> {
        held.values.iter().flat_map(|values| host(values.clone())).collect()
    }

    /// Portions of a range from its flat values.
    fn held(&self, segment: Segment, range: Range<usize>, flat: &[f32]) -> Held {
        let device = self.store.device().clone().without_autodiff();
        Held::from_flat(self.store.layout(segment), range, flat, &device)
    }
}

impl Held {
    pub(crate) fn from_flat(
        layout: &SegmentLayout,
        range: Range<usize>,
        flat: &[f32],
        device: &Device,
    ) -> Self {
        let values = layout.portions(&range).into_iter().map(|portion| {
            let data = TensorData::new(flat[portion.at.clone()].to_vec(), [portion.at.len()]);
            Tensor::from_data(data, (device, DType::F32))
        });
        Self { values: values.collect(), range }
    }
}

/// Squared norms of the gradient of the loss sum.
#[derive(Clone, Copy, Debug)]
struct Norms {
    total: f64,
}

/// Message of the exchange of a tied embedding's two sums; activations count up from 0.
const TIED: u32 = u32::MAX;

fn host(tensor: Tensor<1>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("parameters and gradients are f32")
}

/// The blocks of the model's piece `index` of `count`, as even as possible; the pieces at the ends, which also have the
/// embedding and the head, are not larger than others.
fn blocks_of(index: usize, count: usize, n_layers: usize) -> Range<usize> {
    index * n_layers / count..(index + 1) * n_layers / count
}

/// What a pipeline rank holds, first piece first.
fn pieces(n_layers: usize, rank: usize, layout: &Layout) -> Vec<Piece> {
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
