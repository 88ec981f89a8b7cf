//! The segments that a rank holds: whole, or as its shard of each, gathered for every use (ZeRO 3).

use std::collections::BTreeMap;
use std::ops::Range;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use caravan_collective::Communicator;
use caravan_model::params::remake;
use caravan_model::{Block, Embed, Head, Llama, LlamaConfig};

use crate::executor::{Segment, Weights};
use crate::segments::SegmentLayout;

/// A run of segments that micro-batches pass without leaving the rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Whether it begins with the lookup.
    pub(crate) first: bool,
    /// Its blocks, by their index in the whole model.
    pub(crate) blocks: Range<usize>,
    /// Whether it ends with the head and the loss.
    pub(crate) last: bool,
}

/// The modules of a rank's segments.
#[derive(Clone, Debug)]
struct Modules {
    /// Also on a last stage whose head is tied to it.
    embed: Option<Embed>,
    blocks: BTreeMap<usize, Block>,
    head: Option<Head>,
}

/// What a rank holds of the model.
#[derive(Debug)]
pub(crate) struct Store {
    config: LlamaConfig,
    device: Device,
    /// In visit order.
    layouts: Vec<SegmentLayout>,
    /// Of the whole model: the segments that have something to train, in visit order, and how many parameters of each.
    trained: Vec<(Segment, usize)>,
    /// With their weights, or hollow where the weights are sharded.
    modules: Modules,
    sharded: Option<Sharded>,
}

/// Weights that are divided among the ranks of a group.
#[derive(Debug)]
struct Sharded {
    group: Communicator,
    /// This rank's part of each segment.
    parts: BTreeMap<Segment, Vec<f32>>,
}

impl Store {
    /// Keeps of `model` the segments of `pieces`.
    pub(crate) fn new(model: Llama, pieces: &[Piece]) -> Self {
        let (config, device) = (model.config().clone(), model.device());
        let layouts = SegmentLayout::of(&caravan_model::params::trained(&model));
        let tied = model.head.is_tied();
        let (embed, blocks, head) = model.into_segments();
        let (first, last) = (pieces.iter().any(|p| p.first), pieces.iter().any(|p| p.last));
        let holds = |i: usize| pieces.iter().any(|piece| piece.blocks.contains(&i));
        let modules = Modules {
            embed: (first || (last && tied)).then_some(embed),
            blocks: blocks.into_iter().enumerate().filter(|(i, _)| holds(*i)).collect(),
            head: last.then_some(head),
        };
        let trained = layouts.iter().map(|layout| (layout.segment, layout.params.len())).collect();
        let layouts = layouts.into_iter().filter(|layout| modules.holds(layout.segment)).collect();
        Self { config, device, layouts, trained, modules, sharded: None }
    }

    /// Divides the weights among the ranks of `group`: what is left is hollow modules and this rank's parts.
    pub(crate) fn shard(mut self, group: Communicator) -> Self {
        let part = |layout: &SegmentLayout| layout.part(group.rank(), group.size());
        let parts = self.layouts.iter().map(|l| (l.segment, self.values(l.segment, &part(l))));
        let parts = parts.collect();
        let Modules { embed, blocks, head } = self.modules;
        self.modules = Modules {
            embed: embed.map(hollow),
            blocks: blocks.into_iter().map(|(i, block)| (i, hollow(block))).collect(),
            head: head.map(hollow),
        };
        self.sharded = Some(Sharded { group, parts });
        self
    }

    /// The whole model's configuration.
    pub(crate) fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Where the weights lie when in use.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// The segments held here that have something to train, in visit order; of them the parameters that are trained.
    pub(crate) fn layouts(&self) -> &[SegmentLayout] {
        &self.layouts
    }

    /// The segments of the whole model that have something to train, and how many parameters of each.
    pub(crate) fn trained(&self) -> &[(Segment, usize)] {
        &self.trained
    }

    /// The layout of a segment; a tied use has the embedding's.
    pub(crate) fn layout(&self, segment: Segment) -> &SegmentLayout {
        let segment = if segment == Segment::Tied { Segment::Embed } else { segment };
        self.layouts.iter().find(|l| l.segment == segment).expect("a segment of this rank")
    }

    /// Whether the weights are divided.
    pub(crate) fn is_sharded(&self) -> bool {
        self.sharded.is_some()
    }

    /// A piece as the executor wants it.
    pub(crate) fn piece<'a>(&'a self, piece: &'a Piece) -> PieceWeights<'a> {
        PieceWeights { store: self, piece }
    }

    /// The whole model where all of it is here and resident.
    pub(crate) fn whole(&self) -> Option<Llama> {
        let Modules { embed, blocks, head } = &self.modules;
        if self.is_sharded() || blocks.len() < self.config.n_layers {
            return None;
        }
        let blocks = blocks.values().cloned().collect();
        Some(Llama::from_segments(self.config.clone(), embed.clone()?, blocks, head.clone()?))
    }

    /// The same, without a second handle on its memory.
    pub(crate) fn into_whole(self) -> Option<Llama> {
        let Modules { embed, blocks, head } = self.modules;
        if self.sharded.is_some() || blocks.len() < self.config.n_layers {
            return None;
        }
        Some(Llama::from_segments(self.config, embed?, blocks.into_values().collect(), head?))
    }

    /// Elements of a segment's flat index: of resident weights any range, of sharded ones the rank's own part.
    pub(crate) fn values(&self, segment: Segment, range: &Range<usize>) -> Vec<f32> {
        let layout = self.layout(segment);
        if let Some(sharded) = &self.sharded {
            let own = layout.part(sharded.group.rank(), sharded.group.size());
            assert_eq!(own, *range, "a rank reads its own part");
            return sharded.parts[&layout.segment].clone();
        }
        let mut out = vec![0.0; range.len()];
        let mut portions = layout.portions(range).into_iter().peekable();
        let mut index = 0;
        self.modules.flat(segment, &mut |values| {
            if let Some(portion) = portions.next_if(|portion| portion.param == index) {
                let values = values.slice([portion.within]).into_data();
                out[portion.at]
                    .copy_from_slice(values.as_slice::<f32>().expect("parameters are f32"));
            }
            index += 1;
        });
        out
    }

    /// Replaces a whole resident segment, or the rank's own part of a sharded one.
    pub(crate) fn replace(&mut self, segment: Segment, values: Vec<f32>) {
        let layout = self.layout(segment).clone();
        match &mut self.sharded {
            Some(sharded) => {
                let own = layout.part(sharded.group.rank(), sharded.group.size());
                assert_eq!(own.len(), values.len(), "a rank replaces its own part");
                sharded.parts.insert(segment, values);
            }
            None => self.modules.fill(&layout, &values),
        }
    }

    /// Replaces the parameters of a resident segment one by one: `f(path, shape, values)`.
    pub(crate) fn map(
        &mut self,
        segment: Segment,
        f: &mut dyn FnMut(&str, &[usize], Tensor<1>) -> Tensor<1>,
    ) {
        assert!(!self.is_sharded(), "sharded weights change part by part");
        self.modules.map(segment, f);
    }

    fn gathered<M: Module>(&self, segment: Segment, module: &M) -> M {
        let Some(sharded) = &self.sharded else { return module.clone() };
        let Some(layout) = self.layouts.iter().find(|l| l.segment == segment) else {
            return module.clone(); // frozen
        };
        let values = sharded.group.all_gather_v(&sharded.parts[&segment]).concat();
        fill(module.clone(), layout, &values, &self.device)
    }
}

impl Modules {
    fn holds(&self, segment: Segment) -> bool {
        match segment {
            Segment::Embed | Segment::Tied => self.embed.is_some(),
            Segment::Block(index) => self.blocks.contains_key(&index),
            Segment::Head => self.head.is_some(),
        }
    }

    /// Calls `f` with every parameter of a segment, flat and plain, in visit order.
    fn flat(&self, segment: Segment, f: &mut dyn FnMut(Tensor<1>)) {
        let f = &mut |_: &str, _: &[usize], values| f(values);
        match segment {
            Segment::Embed | Segment::Tied => {
                caravan_model::params::flat_trained(self.embed.as_ref().expect("held here"), f);
            }
            Segment::Block(index) => caravan_model::params::flat_trained(&self.blocks[&index], f),
            Segment::Head => {
                caravan_model::params::flat_trained(self.head.as_ref().expect("held"), f)
            }
        }
    }

    fn map(&mut self, segment: Segment, f: &mut dyn FnMut(&str, &[usize], Tensor<1>) -> Tensor<1>) {
        let prefix = match segment {
            Segment::Embed | Segment::Tied => "embed".to_owned(),
            Segment::Block(index) => format!("blocks.{index}"),
            Segment::Head => "head".to_owned(),
        };
        let f = &mut |path: &str, shape: &[usize], values| {
            f(&format!("{prefix}.{path}"), shape, values)
        };
        match segment {
            Segment::Embed | Segment::Tied => {
                let embed = self.embed.take().expect("held here");
                self.embed = Some(caravan_model::params::map_trained(embed, f));
            }
            Segment::Block(index) => {
                let block = self.blocks.remove(&index).expect("held here");
                self.blocks.insert(index, caravan_model::params::map_trained(block, f));
            }
            Segment::Head => {
                let head = self.head.take().expect("held here");
                self.head = Some(caravan_model::params::map_trained(head, f));
            }
        }
    }

    fn fill(&mut self, layout: &SegmentLayout, values: &[f32]) {
        let mut params = layout.params.iter();
        self.map(layout.segment, &mut |_, _, old| {
            let param = params.next().expect("a range for every parameter");
            let device = old.device();
            let values = values[param.range.clone()].to_vec();
            let n = values.len();
            Tensor::from_data(TensorData::new(values, [n]), (&device, DType::F32))
        });
    }
}

/// A piece of a [`Store`].
pub(crate) struct PieceWeights<'a> {
    store: &'a Store,
    piece: &'a Piece,
}

impl Weights for PieceWeights<'_> {
    fn embed(&self) -> Option<Embed> {
        let embed = self.store.modules.embed.as_ref().filter(|_| self.piece.first)?;
        Some(self.store.gathered(Segment::Embed, embed))
    }

    fn blocks(&self) -> Range<usize> {
        self.piece.blocks.clone()
    }

    fn block(&self, index: usize) -> Block {
        self.store.gathered(Segment::Block(index), &self.store.modules.blocks[&index])
    }

    fn head(&self) -> Option<(Head, Option<Tensor<2>>)> {
        let head = self.store.modules.head.as_ref().filter(|_| self.piece.last)?;
        let tied = head.is_tied().then(|| {
            let embed = self.store.modules.embed.as_ref().expect("kept for the tied head");
            self.store.gathered(Segment::Embed, embed).weight.val()
        });
        Some((self.store.gathered(Segment::Head, head), tied))
    }
}

/// The module without the memory of its parameters.
fn hollow<M: Module>(module: M) -> M {
    struct Hollow;
    impl ModuleMapper for Hollow {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            match is_frozen(&param.val()) {
                true => param,
                false => remake(param, |value| Tensor::empty([0; D], &value.device())),
            }
        }
    }
    module.map(&mut Hollow)
}

/// A hollow module with the parameters that `values` holds.
fn fill<M: Module>(module: M, layout: &SegmentLayout, values: &[f32], device: &Device) -> M {
    struct Fill<'a> {
        params: std::slice::Iter<'a, crate::segments::SegmentParam>,
        values: &'a [f32],
        device: Device,
    }
    impl ModuleMapper for Fill<'_> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if is_frozen(&param.val()) {
                return param;
            }
            let place = self.params.next().expect("a range for every parameter");
            let data =
                TensorData::new(self.values[place.range.clone()].to_vec(), place.shape.clone());
            remake(param, |_| Tensor::from_data(data, (&self.device, DType::F32)))
        }
    }
    let device = device.clone().without_autodiff();
    module.map(&mut Fill { params: layout.params.iter(), values, device })
}

/// Frozen weights are on every rank, and never change.
fn is_frozen<const D: usize>(value: &Tensor<D>) -> bool {
    value.is_autodiff() && !value.is_require_grad()
}
