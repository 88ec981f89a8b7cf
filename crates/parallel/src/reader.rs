//! Reading a model that is spread over ranks: evaluation and generation, all ranks in step.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use caravan_model::{
    Attend, Block, Branches, Forward, Head, KvCache, LlamaConfig, Local, Positions, Region,
    WholeSequences,
};

use crate::engine::Engine;
use crate::executor::Weights;
use crate::tensor::TensorRegion;

/// An [`Engine`]'s model, to be read. Every rank of the pipeline calls the same methods with the same tokens, in the same
/// order, and gets the same results; so do all ranks of a replica whose weights are sharded.
#[derive(Debug)]
pub struct Reader<'a> {
    engine: &'a Engine,
    /// Sequences of any length, one token included, are whole between the split weights.
    region: Arc<dyn Region>,
    /// Context ranks have all weights: each reads whole sequences.
    attend: Arc<dyn Attend>,
}

/// Messages of a reading; training's own count up from 0.
const READING: u32 = 0x7fff_fff0;

impl Engine {
    /// Whether this rank takes part when the model is read: ranks that have the same leave it to the first of them.
    pub fn is_read_here(&self) -> bool {
        let (place, layout) = (self.place(), self.layout());
        (place.replica(layout) == 0 || layout.zero_stage == 3) && place.context == 0
    }

    /// The model, to be read by all ranks together.
    pub fn reader(&self) -> Reader<'_> {
        let region: Arc<dyn Region> = match self.layout().tensor {
            1 => Arc::new(Local),
            _ => Arc::new(TensorRegion::new(&self.mesh().tensor, false)),
        };
        Reader { engine: self, region, attend: Arc::new(WholeSequences) }
    }
}

impl Reader<'_> {
    /// Takes tokens through all pieces of the model; `work` is called on each rank for each of its pieces with the
    /// residual stream, and gives the next one or, on the last, the result.
    fn pass<const D: usize>(
        &self,
        tokens: &Tensor<2, Int>,
        result_shape: [usize; D],
        work: &mut dyn FnMut(&dyn Weights, Option<Tensor<3>>) -> Step<D>,
    ) -> Tensor<D> {
        let pipeline = &self.engine.mesh().pipeline;
        let (rank, ranks) = (pipeline.rank(), pipeline.size());
        let [b, s] = tokens.dims();
        let width = self.config().stream_width();
        let mut result = None;
        for (i, piece) in self.engine.pieces().iter().enumerate() {
            let index = i * ranks + rank;
            let input = (index > 0).then(|| {
                let mut values = vec![0.0f32; b * s * width];
                pipeline.recv((index - 1) % ranks, READING, &mut values);
                self.tensor(values, [b, s, width])
            });
            match work(&self.engine.store().piece(piece), input) {
                Step::Next(x) => {
                    pipeline.send((index + 1) % ranks, READING, &host(x));
                }
                Step::Result(values) => result = Some(values),
            }
        }
        let tensor = &self.engine.mesh().tensor;
        if ranks == 1 && tensor.size() == 1 {
            return result.expect("one rank has the head");
        }
        let mut values = match result {
            Some(values) => host(values),
            None => vec![0.0; result_shape.iter().product()],
        };
        if ranks > 1 {
            let last = (self.engine.layout().n_pieces() - 1) % ranks;
            pipeline.broadcast(last, &mut values);
        }
        // An engine's sums may differ in a last bit between ranks, and sampling would go separate ways.
        tensor.broadcast(0, &mut values);
        self.tensor(values, result_shape)
    }

    fn tensor<const D: usize>(&self, values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
        Tensor::from_data(TensorData::new(values, shape), (&self.device(), DType::F32))
    }
}

/// What a piece gives.
enum Step<const D: usize> {
    Next(Tensor<3>),
    Result(Tensor<D>),
}

impl Reader<'_> {
    /// The residual stream that a piece begins with.
    fn begin(
        &self,
        weights: &dyn Weights,
        input: Option<Tensor<3>>,
        tokens: &Tensor<2, Int>,
    ) -> Tensor<3> {
        match (weights.embed(), input) {
            (Some(embed), None) => embed.valid().with_region(&self.region).forward(tokens.clone()),
            (None, Some(x)) => x,
            _ => panic!("a piece begins with the lookup or with what the one before gave"),
        }
    }

    fn block(&self, weights: &dyn Weights, index: usize) -> Block {
        weights.block(index).valid().with_ranks(&self.region, &self.attend)
    }

    fn head(&self, weights: &dyn Weights) -> Option<(Head, Option<Tensor<2>>)> {
        let (head, tied) = weights.head()?;
        Some((head.valid().with_region(&self.region), tied.map(Tensor::inner)))
    }

    /// The residual stream after the blocks of a piece.
    fn hidden(
        &self,
        weights: &dyn Weights,
        input: Option<Tensor<3>>,
        tokens: &Tensor<2, Int>,
        starts: &Option<Tensor<2, Int>>,
    ) -> Tensor<3> {
        let x = self.begin(weights, input, tokens);
        weights.blocks().fold(x, |x, index| self.block(weights, index).forward(x, starts.clone()))
    }
}

impl Forward for Reader<'_> {
    fn config(&self) -> &LlamaConfig {
        self.engine.config()
    }

    fn device(&self) -> Device {
        self.engine.store().device().clone().without_autodiff()
    }

    fn logits(&self, tokens: Tensor<2, Int>, document_starts: Option<Tensor<2, Int>>) -> Tensor<3> {
        let [b, s] = tokens.dims();
        self.pass(&tokens, [b, s, self.config().n_outputs()], &mut |weights, input| {
            let x = self.hidden(weights, input, &tokens, &document_starts);
            match self.head(weights) {
                None => Step::Next(x),
                Some((head, tied)) => Step::Result(head.forward(x, document_starts.clone(), tied)),
            }
        })
    }

    fn token_losses(
        &self,
        tokens: Tensor<2, Int>,
        targets: Tensor<2, Int>,
        document_starts: Option<Tensor<2, Int>>,
    ) -> Tensor<2> {
        self.pass(&tokens, tokens.dims(), &mut |weights, input| {
            let x = self.hidden(weights, input, &tokens, &document_starts);
            match self.head(weights) {
                None => Step::Next(x),
                Some((head, tied)) => Step::Result(head.token_losses(x, targets.clone(), tied)),
            }
        })
    }

    fn branch_scores(
        &self,
        tokens: Tensor<2, Int>,
        branches: &Branches,
        asked: &[(usize, u32)],
    ) -> Tensor<2> {
        self.pass(&tokens, [asked.len(), 2], &mut |weights, input| {
            let x = self.begin(weights, input, &tokens);
            let x = weights.blocks().fold(x, |x, i| self.block(weights, i).branches(x, branches));
            match self.head(weights) {
                None => Step::Next(x),
                Some((head, tied)) => Step::Result(head.token_scores(x, asked, tied)),
            }
        })
    }

    fn new_cache(&self, batch: usize, capacity: usize) -> KvCache {
        let config = self.config();
        assert!(
            capacity <= config.max_seq_len,
            "a cache of {capacity} positions exceeds max_seq_len = {}",
            config.max_seq_len
        );
        let n: usize = self.engine.pieces().iter().map(|piece| piece.blocks.len()).sum();
        let heads = config.n_kv_heads / self.engine.layout().tensor;
        let heads = std::iter::repeat_n(heads, n);
        KvCache::new(heads, config.head_dim, batch, capacity, &self.device())
    }

    fn extend(&self, tokens: Tensor<2, Int>, cache: &mut KvCache, which: Positions) -> Tensor<3> {
        let [b, s] = tokens.dims();
        let start = cache.start(b, s);
        let last = |x: Tensor<3>| match which {
            Positions::All => x,
            Positions::Last => x.narrow(1, s - 1, 1),
        };
        let n = if which == Positions::All { s } else { 1 };
        let mut layers = cache.layers_mut().iter_mut();
        let logits =
            self.pass(&tokens, [b, n, self.config().n_outputs()], &mut |weights, input| {
                let x = self.begin(weights, input, &tokens);
                let x = weights.blocks().fold(x, |x, index| {
                    let layer = layers.next().expect("a cache for every block");
                    self.block(weights, index).extend(x, layer, start)
                });
                match self.head(weights) {
                    None => Step::Next(x),
                    Some((head, tied)) => Step::Result(head.forward(last(x), None, tied)),
                }
            });
        cache.advance(s);
        logits
    }
}

fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("activations are f32")
}
