//! The summed gradients of a step as a rank holds them, and what the axes still owe them: both uses of a tied weight, the
//! parts of sequences.

use std::collections::BTreeMap;
use std::ops::Range;

use burn::tensor::{DType, Device, Tensor, TensorData};
use caravan_collective::ReduceOp;

use crate::engine::Engine;
use crate::executor::Segment;
use crate::mutation;
use crate::segments::{Portion, SegmentLayout};
use crate::tensor;

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

impl Engine {
    /// Adds the two uses of a tied embedding, lookup first. On a pipeline the first and the last rank hold one sum each;
    /// they exchange them, and both do the same addition and later the same update.
    pub(crate) fn finish_tied(&self, sums: &mut Sums) {
        let is_trained = self.store().layouts().iter().any(|l| l.segment == Segment::Embed);
        let at_an_end = self.mesh.pipeline.rank() == 0
            || self.mesh.pipeline.rank() == self.mesh.pipeline.size() - 1;
        if !self.config().ties_output() || (at_an_end && !is_trained) {
            return;
        }
        let pipeline = &self.mesh.pipeline;
        let last = pipeline.size() - 1;
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
            && !(self.layout.world() > 1 && mutation::on("tied_use_dropped"))
        {
            let lookup = sums.get_mut(&Segment::Embed).expect("the lookup has a gradient");
            let both = std::mem::take(&mut lookup.values).into_iter().zip(tied.values);
            lookup.values = both.map(|(lookup, head)| lookup.add(head)).collect();
        }
    }

    /// Context ranks have parts of the same sequences, so their gradients are parts of one sum.
    pub(crate) fn finish_context(&self, sums: &mut Sums) {
        let group = &self.mesh.context;
        if group.size() == 1 || mutation::on("context_gradients_stay") {
            return;
        }
        for (segment, held) in sums {
            let mut flat = self.flat(held);
            group.all_reduce(ReduceOp::Sum, &mut flat);
            *held = self.held(*segment, held.range.clone(), &flat);
        }
    }

    /// Of some parameters each tensor rank has a part of the gradient ([`tensor::sums_over_tensor_axis`]). They are small:
    /// every rank brings them together whole, adds the tensor ranks' in rank order, and keeps its portions.
    pub(crate) fn finish_tensor(&self, sums: &mut Sums) {
        let group = &self.mesh.tensor;
        if group.size() == 1 || mutation::on("tensor_norms_not_summed") {
            return;
        }
        let replicas = self.mesh.replicas.size();
        for (segment, held) in sums {
            let layout = self.store.layout(*segment);
            let is_summed = |index: usize| {
                let path = &layout.params[index].path;
                tensor::sums_over_tensor_axis(path, self.layout.sequence_parallel)
            };
            if !(0..layout.params.len()).any(is_summed) {
                continue;
            }
            let is_part = |portion: &Portion| is_summed(portion.param);
            let mine: Vec<f32> = layout
                .portions(&held.range)
                .iter()
                .zip(&held.values)
                .filter(|(portion, _)| is_part(portion))
                .flat_map(|(_, values)| host(values.clone()))
                .collect();
            let whole = self.mesh.replicas.all_gather_v(&mine).concat();
            let of_ranks = group.all_gather_v(&whole);
            let add = |sum: Vec<f32>, part: Vec<f32>| {
                sum.iter().zip(&part).map(|(a, b)| a + b).collect::<Vec<f32>>()
            };
            let whole = of_ranks.into_iter().reduce(add).expect("a group has a rank");
            // Those of the ranks before this one come first.
            let before: usize = (0..self.place.replica(&self.layout))
                .flat_map(|r| layout.portions(&layout.part(r, replicas)))
                .filter(is_part)
                .map(|portion| portion.within.len())
                .sum();
            let mut rest = &whole[before..];
            let device = self.store.device().clone().without_autodiff();
            for (portion, values) in layout.portions(&held.range).iter().zip(&mut held.values) {
                if is_part(portion) {
                    let (now, later) = rest.split_at(portion.within.len());
                    let data = TensorData::new(now.to_vec(), [now.len()]);
                    *values = Tensor::from_data(data, (&device, DType::F32));
                    rest = later;
                }
            }
        }
    }

    pub(crate) fn flat(&self, held: &Held) -> Vec<f32> {
        held.values.iter().flat_map(|values| host(values.clone())).collect()
    }

    /// Portions of a range from its flat values.
    pub(crate) fn held(&self, segment: Segment, range: Range<usize>, flat: &[f32]) -> Held {
        let device = self.store.device().clone().without_autodiff();
        Held::from_flat(self.store.layout(segment), range, flat, &device)
    }
}

/// Message of the exchange of a tied embedding's two sums; activations count up from 0.
const TIED: u32 = 0x7fff_fff1;

/// The values, in memory of this process.
pub(crate) fn host(tensor: Tensor<1>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("parameters and gradients are f32")
}
