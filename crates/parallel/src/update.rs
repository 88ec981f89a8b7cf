//! The update of the parts whose optimizer state a rank keeps, and bringing the new weights to those who need them.

use std::ops::Range;

use caravan_collective::Communicator;
use caravan_optim::AdamW;

use crate::engine::{Engine, StepSettings};
use crate::executor::Segment;
use crate::mutation;
use crate::segments::SegmentLayout;
use crate::sums::{Held, Sums, host};

impl Engine {
    pub(crate) fn update(
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
                        settings.groups.lr(path, settings.lr),
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
                let lr = settings.groups.lr(&param.path, settings.lr);
                let weight = optimizer.step_scaled(&param.path, weight, gradient, scale, lr, decay);
                updated.extend(host(weight));
            }
            let updated = if self.store.is_sharded() {
                updated
            } else {
                self.state_group().all_gather_v(&updated).concat()
            };
            if mutation::on("zero_weights_stay") && self.state_group().rank() > 0 {
                continue;
            }
            self.store.replace(segment, updated);
        }
    }

    /// From the range that this rank owns in the sum to the range whose update it does.
    pub(crate) fn spread(&self, layout: &SegmentLayout, held: Held) -> Held {
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

    /// The range of a segment whose optimizer state this rank keeps.
    pub(crate) fn state_range(&self, layout: &SegmentLayout) -> Range<usize> {
        match (self.layout.zero_stage, self.layout.shard) {
            (0, _) => 0..layout.len(),
            (_, 1) => layout.part(self.place.replica(&self.layout), self.layout.replicas()),
            (_, n) => layout.part(self.place.shard, n),
        }
    }
}
