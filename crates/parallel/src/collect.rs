//! Bringing together what the ranks hold, for comparing and for small models: every rank gets all of it.

use burn::tensor::Tensor;
use caravan_collective::Communicator;
use caravan_model::ParamInfo;

use crate::engine::Engine;
use crate::executor::{Activations, MicroBatch, Segment};
use crate::loss::LossSum;
use crate::tensor;

/// Values of one parameter of the whole model.
#[derive(Clone, Debug, PartialEq)]
pub struct Values {
    /// Dotted module path.
    pub path: String,
    /// The parameter's shape.
    pub shape: Vec<usize>,
    /// Row-major.
    pub values: Vec<f32>,
}

impl Engine {
    /// Every parameter of the whole model, in visit order, on every rank. Called by all ranks.
    pub fn all_parameters(&self) -> Vec<Values> {
        let group = self.state_group();
        let own = |segment: Segment| {
            let layout = self.store().layout(segment);
            if self.store().is_sharded() {
                let part = layout.part(group.rank(), group.size());
                group.all_gather_v(&self.store().values(segment, &part)).concat()
            } else {
                self.store().values(segment, &(0..layout.len()))
            }
        };
        self.together(&own)
    }

    /// The summed gradient of every parameter of the whole model over a step of `n` micro-batches, in visit order, and
    /// the loss; nothing is updated. Called by all ranks, with their batches as for [`step`](Self::step).
    pub fn all_gradients(
        &mut self,
        n: usize,
        batches: &[MicroBatch],
        activations: Activations,
    ) -> (Vec<Values>, LossSum) {
        let (sums, loss) = self.gradients(n, batches, activations);
        let group = &self.mesh().replicas;
        let own = |segment: Segment| {
            let flat: Vec<f32> = sums[&segment].values.iter().flat_map(host).collect();
            group.all_gather_v(&flat).concat()
        };
        (self.together(&own), loss)
    }

    /// Joins the segments of all pipeline ranks; `own` gives a whole segment of this rank.
    fn together(&self, own: &dyn Fn(Segment) -> Vec<f32>) -> Vec<Values> {
        let mut mine = Vec::new();
        for layout in self.store().layouts() {
            let flat = own(layout.segment);
            // The copy of a tied embedding is the first rank's parameter.
            if layout.segment == Segment::Embed && self.mesh().pipeline.rank() > 0 {
                continue;
            }
            mine.extend(layout.params.iter().map(|param| Values {
                path: param.path.clone(),
                shape: param.shape.clone(),
                values: flat[param.range.clone()].to_vec(),
            }));
        }
        let mine = self.whole_parameters(mine);
        let mut all = exchange(mine, &self.mesh().pipeline).concat();
        let order: Vec<ParamInfo> = self.config().parameters();
        let place = |path: &str| order.iter().position(|info| info.path == path);
        all.sort_by_key(|values| place(&values.path));
        all
    }

    /// Puts the slices of all tensor ranks together.
    fn whole_parameters(&self, mine: Vec<Values>) -> Vec<Values> {
        if self.layout().tensor == 1 {
            return mine;
        }
        let of_ranks = exchange(mine, &self.mesh().tensor);
        let assemble = |index: usize| {
            let Values { path, shape: here, .. } = &of_ranks[0][index];
            let shape = tensor::whole_shape(path, here, self.config());
            let mut whole = vec![0.0; shape.iter().product()];
            for (rank, values) in of_ranks.iter().enumerate() {
                let mut values = values[index].values.as_slice();
                for run in self.slice(path, here, rank).1.runs(&shape) {
                    let (now, later) = values.split_at(run.len());
                    whole[run].copy_from_slice(now);
                    values = later;
                }
            }
            Values { path: path.clone(), shape, values: whole }
        };
        (0..of_ranks[0].len()).map(assemble).collect()
    }
}

/// Everybody's values, in rank order.
fn exchange(mine: Vec<Values>, group: &Communicator) -> Vec<Vec<Values>> {
    if group.size() == 1 {
        return vec![mine];
    }
    let names: Vec<String> = mine
        .iter()
        .map(|v| {
            let shape: Vec<String> = v.shape.iter().map(ToString::to_string).collect();
            format!("{} {}", v.path, shape.join(" "))
        })
        .collect();
    let names = group.all_gather_v(names.join("\n").as_bytes());
    let flat: Vec<f32> = mine.into_iter().flat_map(|v| v.values).collect();
    let flats = group.all_gather_v(&flat);
    let mut all = Vec::new();
    for (names, flat) in names.into_iter().zip(flats) {
        let mut out = Vec::new();
        let names = String::from_utf8(names).expect("a rank sends text");
        let mut at = 0;
        for line in names.lines() {
            let mut words = line.split(' ');
            let path = words.next().expect("a path").to_owned();
            let shape: Vec<usize> = words.map(|n| n.parse().expect("a size")).collect();
            let n: usize = shape.iter().product();
            out.push(Values { path, shape, values: flat[at..at + n].to_vec() });
            at += n;
        }
        all.push(out);
    }
    all
}

fn host(tensor: &Tensor<1>) -> Vec<f32> {
    tensor.clone().into_data().try_into_vec().expect("gradients are f32")
}
