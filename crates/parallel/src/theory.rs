//! How many bytes a rank sends in a step, by axis, from shapes alone: what the counters must say.
//!
//! The convention is that of [`caravan_collective::Traffic`]: what a sensible engine sends. With `R` replicas, a model of
//! `P` bytes and one micro-batch per replica the exchange of gradients costs each rank `(R - 1) / R * P`, and handing out
//! the sums (or, under ZeRO, the weights) as much again: the volume of a ring's all-reduce. Exactness costs more only where
//! a replica's micro-batches do not make one aligned block of the sum's tree.

use std::collections::BTreeMap;

use caravan_model::{LlamaConfig, ParamInfo};

use crate::executor::{Activations, Segment};
use crate::mesh::{Layout, Place};
use crate::reduce::Assignment;
use crate::segments::SegmentLayout;
use crate::store::Piece;
use crate::tensor;

/// A step whose bytes are asked for.
#[derive(Clone, Copy, Debug)]
pub struct StepShape {
    /// Micro-batches, over all replicas.
    pub n_micro_batches: usize,
    /// Sequences of one.
    pub rows: usize,
    /// Tokens of a whole sequence.
    pub seq_len: usize,
    /// Keep or recompute; sharded weights are always recomputed with.
    pub activations: Activations,
}

/// Bytes of f32.
const F32: usize = 4;
/// Bytes of the f64 in which losses, counts and squared norms travel.
const F64: usize = 8;

/// Bytes that world rank `rank` sends in one [`Engine::step`](crate::Engine::step) with fused kernels, for every axis of
/// more than one rank.
pub fn expected_traffic(
    layout: &Layout,
    config: &LlamaConfig,
    step: StepShape,
    rank: usize,
) -> BTreeMap<&'static str, u64> {
    let theory = Theory::new(layout, config, step, rank);
    let axes = [
        ("data", layout.replicas(), theory.data()),
        ("shard", layout.shard, theory.shard()),
        ("context", layout.context, theory.context()),
        ("tensor", layout.tensor, theory.tensor()),
        ("pipeline", layout.pipeline, theory.pipeline()),
    ];
    let used = axes.into_iter().filter(|(_, degree, _)| *degree > 1);
    used.map(|(axis, _, bytes)| (axis, bytes as u64)).collect()
}

struct Theory<'a> {
    layout: &'a Layout,
    config: &'a LlamaConfig,
    step: StepShape,
    place: Place,
    pieces: Vec<Piece>,
    segments: Vec<SegmentLayout>,
    assignment: Assignment,
    recomputes: bool,
}

impl<'a> Theory<'a> {
    fn new(layout: &'a Layout, config: &'a LlamaConfig, step: StepShape, rank: usize) -> Self {
        let place = Place::of(rank, layout);
        let pieces = crate::engine::pieces(config.n_layers, place.pipeline, layout);
        let slice = |info: ParamInfo| {
            let slice =
                tensor::slice_of(&info.path, &info.shape, config, place.tensor, layout.tensor);
            ParamInfo { shape: slice.shape(&info.shape), path: info.path }
        };
        let all: Vec<ParamInfo> = config.parameters().into_iter().map(slice).collect();
        let is_last = pieces.iter().any(|piece| piece.last);
        let holds = |segment: Segment| match segment {
            Segment::Embed | Segment::Tied => {
                pieces.iter().any(|piece| piece.first) || (is_last && config.ties_output())
            }
            Segment::Block(index) => pieces.iter().any(|piece| piece.blocks.contains(&index)),
            Segment::Head => is_last,
        };
        let segments = SegmentLayout::of(&all).into_iter().filter(|s| holds(s.segment)).collect();
        let assignment = Assignment::new(
            step.n_micro_batches,
            layout.replicas(),
            layout.zero_stage >= 2,
            layout.reduction,
        );
        let recomputes = layout.zero_stage == 3 || step.activations == Activations::Recompute;
        Self { layout, config, step, place, pieces, segments, assignment, recomputes }
    }

    fn n_micro(&self) -> usize {
        self.assignment.per_replica()
    }

    fn is_first(&self) -> bool {
        self.pieces.iter().any(|piece| piece.first)
    }

    fn is_last(&self) -> bool {
        self.pieces.iter().any(|piece| piece.last)
    }

    fn n_blocks(&self) -> usize {
        self.pieces.iter().map(|piece| piece.blocks.len()).sum()
    }

    /// How often a block runs forward for each micro-batch.
    fn forwards(&self) -> usize {
        if self.recomputes { 2 } else { 1 }
    }

    /// Segments whose gradients are summed here: the two uses of a tied embedding are two.
    fn summed(&self) -> Vec<&SegmentLayout> {
        let embed = |s: &&SegmentLayout| s.segment == Segment::Embed;
        let lookup = self.segments.iter().filter(|s| !embed(s) || self.is_first());
        let tied = self.config.ties_output() && self.is_last();
        lookup.chain(self.segments.iter().filter(move |s| tied && embed(s))).collect()
    }

    /// Elements of this rank's part of a segment among the replicas.
    fn own(&self, segment: &SegmentLayout) -> usize {
        segment.part(self.place.replica(self.layout), self.layout.replicas()).len()
    }

    /// Elements whose state this rank keeps.
    fn state(&self, segment: &SegmentLayout) -> usize {
        match (self.layout.zero_stage, self.layout.shard) {
            (0, _) => segment.len(),
            (_, 1) => self.own(segment),
            (_, n) => segment.part(self.place.shard, n).len(),
        }
    }

    fn data(&self) -> usize {
        let (ranks, replica) = (self.layout.replicas(), self.place.replica(self.layout));
        let n = self.n_micro();
        // Blocks handed over in a step.
        let blocks = match (self.assignment.is_exact(), self.layout.zero_stage >= 2) {
            (true, false) => self.assignment.blocks(replica, 0..n).len(),
            (false, false) => 1,
            (_, true) => n,
        };
        let mut bytes = 0;
        for segment in self.summed() {
            bytes += blocks * (segment.len() - self.own(segment)) * F32;
        }
        for segment in &self.segments {
            bytes += (ranks - 1) * segment.blocks_of_part(replica, ranks).len() * F64;
            bytes += match (self.layout.zero_stage, self.layout.shard) {
                (0, _) => (ranks - 1) * self.own(segment) * F32,
                // The new weights of this rank's part, to all who hold them whole.
                (1 | 2, 1) => (ranks - 1) * self.own(segment) * F32,
                (_, 1) => 0,
                _ => (self.layout.data - 1) * self.own(segment) * F32,
            };
            if self.layout.sequence_parallel {
                bytes += (ranks - 1) * self.norms_in_part(segment) * F32;
            }
        }
        if self.is_last() {
            bytes += (ranks - 1) * n * 2 * F64;
        }
        bytes + if self.layout.shard == 1 { self.gathers(ranks) } else { 0 }
    }

    fn shard(&self) -> usize {
        let ranks = self.layout.shard;
        if self.layout.zero_stage == 3 {
            return self.gathers(ranks);
        }
        self.segments.iter().map(|segment| (ranks - 1) * self.state(segment) * F32).sum()
    }

    /// Bringing sharded weights together, once for every use of a segment.
    fn gathers(&self, ranks: usize) -> usize {
        if self.layout.zero_stage < 3 {
            return 0;
        }
        let uses = |segment: &SegmentLayout| match segment.segment {
            // Forward and backward; the head does both at once.
            Segment::Embed | Segment::Tied => {
                let tied = self.config.ties_output() && self.is_last();
                2 * usize::from(self.is_first()) + usize::from(tied)
            }
            Segment::Block(_) => 2,
            Segment::Head => 1,
        };
        let one = |segment| uses(segment) * (ranks - 1) * self.state(segment) * F32;
        self.n_micro() * self.segments.iter().map(one).sum::<usize>()
    }

    /// Elements of norms in this rank's part of a segment.
    fn norms_in_part(&self, segment: &SegmentLayout) -> usize {
        let range = segment.part(self.place.replica(self.layout), self.layout.replicas());
        let portions = segment.portions(&range).into_iter();
        let path = |param: usize| &segment.params[param].path;
        let norms = portions.filter(|p| tensor::sums_over_tensor_axis(path(p.param), true));
        norms.map(|portion| portion.within.len()).sum()
    }

    /// Positions of a sequence that are here, between the split weights.
    fn positions(&self) -> usize {
        self.step.seq_len / self.layout.context
    }

    /// Bytes of the residual stream of a micro-batch inside the split weights.
    fn stream(&self) -> usize {
        self.step.rows * self.positions() * self.config.d_model * F32
    }

    fn context(&self) -> usize {
        let ranks = self.layout.context;
        let heads = self.config.n_kv_heads / self.layout.tensor;
        let keys = self.step.rows * heads * self.positions() * self.config.head_dim * F32 * 2;
        let ring = (ranks - 1) * keys * (self.forwards() + 2);
        let mut bytes = self.n_micro() * self.n_blocks() * ring;
        for segment in &self.segments {
            bytes += all_reduce(ranks, self.own(segment) * F32);
        }
        if self.is_last() {
            bytes += all_reduce(ranks, self.n_micro() * 2 * F64);
        }
        bytes
    }

    fn tensor(&self) -> usize {
        let ranks = self.layout.tensor;
        if ranks == 1 {
            return 0;
        }
        let stream = self.stream();
        // Twice in a block, forward (as often as it runs) and backward; once at each end.
        let (block, lookup, head) = match self.layout.sequence_parallel {
            false => (2 * (self.forwards() + 1), 1, 1),
            true => (4 * (self.forwards() + 1), 2, 2),
        };
        let crossing = match self.layout.sequence_parallel {
            false => all_reduce(ranks, stream),
            true => (ranks - 1) * (stream / ranks),
        };
        // Sharded weights leave no graph: the lookup runs again before its backward.
        let again = usize::from(self.recomputes);
        let mut crossings = self.n_blocks() * block;
        crossings += usize::from(self.is_first()) * (lookup + again);
        crossings += usize::from(self.is_last()) * head;
        let mut bytes = self.n_micro() * crossings * crossing;
        if self.is_last() {
            let rows = self.step.rows * self.positions();
            bytes += self.n_micro() * (ranks - 1) * rows * 3 * F32;
        }
        if self.layout.sequence_parallel {
            // Norms, and the biases that are added to what ranks have summed.
            let in_block =
                2 + usize::from(self.config.attention_bias) + usize::from(self.config.mlp_bias);
            let vectors = in_block * self.n_blocks() + usize::from(self.is_last());
            bytes += (ranks - 1) * vectors * self.config.d_model * F32;
        }
        let n_params: usize = self.segments.iter().map(|segment| segment.params.len()).sum();
        bytes + (ranks - 1) * n_params * F64
    }

    fn pipeline(&self) -> usize {
        let ranks = self.layout.pipeline;
        let stream = match self.layout.sequence_parallel {
            true => self.stream() / self.layout.tensor,
            false => self.stream(),
        };
        let forward = self.pieces.iter().filter(|piece| !piece.last).count();
        let backward = self.pieces.iter().filter(|piece| !piece.first).count();
        let mut bytes = self.n_micro() * (forward + backward) * stream;
        let embed = self.segments.iter().find(|segment| segment.segment == Segment::Embed);
        if let Some(embed) = embed.filter(|_| self.config.ties_output()) {
            bytes += self.own(embed) * F32;
        }
        if self.place.pipeline + 1 == ranks {
            bytes += (ranks - 1) * 2 * F64;
        }
        let copy = usize::from(self.config.ties_output() && !self.is_first() && self.is_last());
        let n_params: usize = self.segments.iter().map(|segment| segment.params.len()).sum();
        bytes + (ranks - 1) * (n_params - copy) * F64
    }
}

/// A ring: reduce and scatter, then gather.
fn all_reduce(ranks: usize, bytes: usize) -> usize {
    2 * (ranks - 1) * bytes / ranks
}
