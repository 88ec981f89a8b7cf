//! A rank's work in a step: its micro-batches through its pieces of the model, in the order of the schedule.
//!
//! Activations and their gradients travel to the neighbouring stages as messages; a segment's gradients go into the sum
//! as soon as backward has passed it. A model on one rank is one piece, and no message is sent.

use std::collections::{BTreeMap, HashMap};

use burn::tensor::{DType, Tensor, TensorData};
use caravan_collective::Communicator;

use crate::executor::{
    Activations, MicroBatch, Segment, StageOutput, StagePass, backward, forward,
};
use crate::gradients::{Gradient, SegmentGradients};
use crate::loss::LossSum;
use crate::mesh::Layout;
use crate::mutation;
use crate::probe;
use crate::reduce::{Assignment, Owner, Round, flatten, with_owner};
use crate::schedule::{Action, actions};
use crate::store::{Piece, Store};
use crate::sums::{Held, Sums};
use crate::tree::BlockTree;

/// Everything a step's gradients are a function of.
pub(crate) struct Work<'a> {
    pub(crate) store: &'a Store,
    pub(crate) pieces: &'a [Piece],
    pub(crate) pipeline: &'a Communicator,
    pub(crate) layout: &'a Layout,
    pub(crate) assignment: &'a Assignment,
    /// This rank's index among the replicas.
    pub(crate) replica: usize,
    /// This replica's micro-batches, in the order of the work.
    pub(crate) batches: &'a [MicroBatch],
    pub(crate) activations: Activations,
    /// Told the micro-batch's global index as well.
    pub(crate) watch: &'a WatchMicroBatch<'a>,
}

/// A [`Watch`](crate::executor::Watch) over all micro-batches of a step.
pub(crate) type WatchMicroBatch<'a> = dyn Fn(u64, Segment, &Tensor<3>) + 'a;

/// Computes this rank's range of the summed gradients, and the loss of each of its micro-batches (on the last stage; 0
/// elsewhere).
pub(crate) fn run(work: &Work<'_>, owner: Owner, overlap: bool) -> (Sums, Vec<LossSum>) {
    let n = work.assignment.per_replica();
    assert_eq!(work.batches.len(), n, "a batch for each of this replica's micro-batches");
    if work.layout.replicas() == 1 {
        let mut local = Local::new(work);
        let losses = drive(work, &mut |segment, gradients| local.add(segment, gradients));
        return (local.finish(), losses);
    }
    let (losses, sums) = with_owner(owner, overlap, |hand_over| {
        let mut local = Local::new(work);
        drive(work, &mut |segment, gradients| {
            local.add(segment, gradients);
            if let Some(round) = local.round(segment) {
                hand_over(round);
            }
        })
    });
    let device = work.store.device().clone().without_autodiff();
    let held = |(segment, values): (Segment, Vec<f32>)| {
        let layout = work.store.layout(segment);
        let range = layout.part(work.replica, work.layout.replicas());
        (segment, Held::from_flat(layout, range, &values, &device))
    };
    (sums.into_iter().map(held).collect(), losses)
}

/// Runs the schedule; `sink` gets every segment's gradients, micro-batch by micro-batch.
fn drive(work: &Work<'_>, sink: &mut dyn FnMut(Segment, Vec<Gradient>)) -> Vec<LossSum> {
    let n = work.batches.len();
    let (rank, ranks) = (work.pipeline.rank(), work.pipeline.size());
    let mut losses: Vec<LossSum> =
        work.batches.iter().map(|b| LossSum { nats: 0.0, tokens: b.n_targets }).collect();
    let indices = work.assignment.indices(work.replica);
    let mut passes: HashMap<(usize, usize), StagePass> = HashMap::new();
    for action in actions(work.layout.schedule, rank, ranks, work.pieces.len(), n) {
        match action {
            Action::Forward { micro, piece } => {
                let (stage, weights) =
                    (piece * ranks + rank, work.store.piece(&work.pieces[piece]));
                let batch = work.batch(micro, piece);
                let input = (stage > 0).then(|| work.receive(stage - 1, stage, micro));
                let watch = |segment, x: &Tensor<3>| (work.watch)(indices[micro], segment, x);
                let (output, pass) =
                    forward(&weights, input, batch, work.activations, sink, &watch);
                match output {
                    StageOutput::Hidden(x) => work.send(x, stage, stage + 1, micro),
                    StageOutput::Loss(nats) => losses[micro].nats = nats,
                }
                passes.insert((micro, piece), pass);
                probe::at("forward", passes.len());
            }
            Action::Backward { micro, piece } => {
                let (stage, weights) =
                    (piece * ranks + rank, work.store.piece(&work.pieces[piece]));
                let pass = passes.remove(&(micro, piece)).expect("forward comes first");
                let is_last = work.pieces[piece].last;
                let gradient = (!is_last).then(|| work.receive(stage + 1, stage, micro));
                let batch = work.batch(micro, piece);
                if let Some(gradient) = backward(&weights, pass, gradient, batch, sink) {
                    work.send(gradient, stage, stage - 1, micro);
                }
                probe::at("backward", passes.len());
            }
        }
    }
    losses
}

impl Work<'_> {
    fn batch(&self, micro: usize, piece: usize) -> &MicroBatch {
        let shifted = self.pieces[piece].last
            && self.pipeline.size() > 1
            && mutation::on("pipeline_micro_batch_shifted");
        &self.batches[(micro + usize::from(shifted)) % self.batches.len()]
    }

    /// Sends the residual stream, or its gradient, from one of the model's pieces to a neighbour.
    fn send(&self, x: Tensor<3>, from: usize, to: usize, micro: usize) {
        let data = x.into_data();
        let values = data.as_slice::<f32>().expect("activations are f32");
        self.pipeline.send(to % self.pipeline.size(), self.tag(from, to, micro), values);
    }

    fn receive(&self, from: usize, to: usize, micro: usize) -> Tensor<3> {
        let [rows, mut seq_len] = self.batches[micro].tokens.dims();
        if self.layout.sequence_parallel {
            seq_len /= self.layout.tensor;
        }
        let shape = [rows, seq_len, self.store.config().stream_width()];
        let mut values = vec![0.0f32; shape.iter().product()];
        self.pipeline.recv(from % self.pipeline.size(), self.tag(from, to, micro), &mut values);
        let device = self.store.device().clone().without_autodiff();
        Tensor::from_data(TensorData::new(values, shape), (&device, DType::F32))
    }

    /// A number of its own for every message of a step; those of the next step come later on the same way.
    fn tag(&self, from: usize, to: usize, micro: usize) -> u32 {
        let edge = 2 * from.min(to) + usize::from(to < from);
        u32::try_from(edge * self.batches.len() + micro).expect("fewer messages than 2^32")
    }
}

/// A replica's own sums.
struct Local<'a> {
    work: &'a Work<'a>,
    each_time: bool,
    segments: BTreeMap<Segment, Own>,
}

#[derive(Default)]
struct Own {
    tree: BlockTree<SegmentGradients>,
    /// Micro-batches added, and of those handed over.
    added: usize,
    handed: usize,
}

impl<'a> Local<'a> {
    fn new(work: &'a Work<'a>) -> Self {
        Self { work, each_time: work.layout.zero_stage >= 2, segments: BTreeMap::new() }
    }

    fn add(&mut self, segment: Segment, gradients: Vec<Gradient>) {
        let own = self.segments.entry(segment).or_default();
        let index = self.work.assignment.indices(self.work.replica)[own.added];
        let gradients = SegmentGradients(gradients);
        if self.work.assignment.is_exact() {
            own.tree.push(index, gradients);
        } else {
            own.tree.push_left(gradients);
        }
        own.added += 1;
    }

    /// What is to be handed over now that a segment's gradient was added.
    fn round(&mut self, segment: Segment) -> Option<Round> {
        let assignment = self.work.assignment;
        let own = self.segments.get_mut(&segment).expect("just added");
        if !self.each_time && own.added < assignment.per_replica() {
            return None;
        }
        let positions = own.handed..own.added;
        own.handed = own.added;
        let blocks = std::mem::take(&mut own.tree).into_blocks();
        let blocks = blocks.into_iter().map(|(_, gradients)| flatten(gradients.0)).collect();
        let replicas = 0..self.work.layout.replicas();
        let blocks_of = replicas.map(|r| assignment.blocks(r, positions.clone())).collect();
        Some(Round { segment, blocks_of, blocks })
    }

    /// The whole sums, where there is one replica.
    fn finish(self) -> Sums {
        let held = |(segment, own): (Segment, Own)| {
            let sum = own.tree.finish().expect("a step has micro-batches");
            let range = 0..self.work.store.layout(segment).len();
            let values = sum.0.into_iter().map(|gradient| gradient.values).collect();
            (segment, Held { range, values })
        };
        self.segments.into_iter().map(held).collect()
    }
}
