//! The gradient's norm over all ranks: every parameter counted once, in an order that no layout changes.

use std::collections::BTreeMap;

use caravan_optim::{BLOCK, OptimError, sum_in_order, tensor_block_sums};

use crate::engine::{Engine, NotFinite, blocks_of};
use crate::executor::Segment;
use crate::mutation;
use crate::sums::{Held, Sums};

/// Squared norms of the gradient of the loss sum.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Norms {
    pub(crate) total: f64,
}

impl Engine {
    /// Squared norms over all ranks, every parameter counted once; gradients come back untouched.
    pub(crate) fn norms(&self, sums: Sums) -> (Sums, Norms) {
        let mut kept = Sums::new();
        let mut blocks: BTreeMap<Segment, Vec<f64>> = BTreeMap::new();
        for (segment, held) in sums {
            let mut values = Vec::with_capacity(held.values.len());
            let mut own = Vec::new();
            for tensor in held.values {
                let (tensor, sums) = tensor_block_sums(tensor);
                values.push(tensor);
                own.extend(sums);
            }
            kept.insert(segment, Held { range: held.range, values });
            let mut all = self.mesh.replicas.all_gather_v(&own).concat();
            if mutation::on("norm_scaled") {
                all.iter_mut().for_each(|sum| *sum *= self.mesh.replicas.size() as f64);
            }
            blocks.insert(segment, all);
        }
        (kept, self.norms_of(&blocks))
    }

    /// Adds up block sums: over the blocks of a parameter, over the tensor ranks that have slices of it, and over the
    /// parameters of all pipeline ranks in visit order.
    pub(crate) fn norms_of(&self, blocks: &BTreeMap<Segment, Vec<f64>>) -> Norms {
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
                let is_sliced = self.global(&param.path, &param.shape).1.is_some();
                if (is_sliced && !mutation::on("norm_slices_dropped"))
                    || (!is_sliced && mutation::on("norm_whole_summed"))
                {
                    mine[i] = sum_in_order(of_ranks.iter().map(|values| values[i]));
                }
            }
        }
        // The last rank's copy of a tied embedding is the first rank's parameter.
        let copy = self.mesh.pipeline.size() > 1
            && !self.pieces.iter().any(|piece| piece.first)
            && self.store.layouts().first().is_some_and(|l| l.segment == Segment::Embed);
        if copy && !mutation::on("norm_copy_counted") {
            mine.remove(0);
        }
        // Segments of interleaved pieces are not neighbours: pieces are put in the model's order.
        let all = self.mesh.pipeline.all_gather_v(&mine);
        let total = sum_in_order(self.in_visit_order(&all));
        Norms { total }
    }

    /// The numbers of all pipeline ranks, one for each parameter, in visit order.
    pub(crate) fn in_visit_order(&self, of_ranks: &[Vec<f64>]) -> Vec<f64> {
        if of_ranks.len() == 1 {
            return of_ranks[0].clone();
        }
        let (n_layers, n_pieces) = (self.config().n_layers, self.layout.n_pieces());
        let piece_of = |segment: Segment| match segment {
            Segment::Embed | Segment::Tied => 0,
            Segment::Head => n_pieces - 1,
            Segment::Block(index) => {
                let holds = |piece: &usize| blocks_of(*piece, n_pieces, n_layers).contains(&index);
                (0..n_pieces).find(holds).expect("every block is in a piece")
            }
        };
        let mut from: Vec<_> = of_ranks.iter().map(|values| values.iter().copied()).collect();
        let mut out = Vec::new();
        for (segment, n) in self.store.trained() {
            let rank = piece_of(*segment) % self.layout.pipeline;
            out.extend(from[rank].by_ref().take(*n));
        }
        out
    }

    pub(crate) fn first_not_finite(&self, sums: &Sums) -> NotFinite {
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
}
