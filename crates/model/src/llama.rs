//! The whole model as its segments, and how one is made.

use std::ops::Range;
use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use caravan_kernels::Kernels;

use crate::block::BlockWeights;
use crate::layers::{Linear, Norm};
use crate::vocab::Ends;
use crate::{
    Attend, Block, Embed, Head, LlamaConfig, ModelError, ParamInfo, Region, RopeTables, Vocab,
    init, params,
};

/// A LLaMA on one device.
#[derive(Module, Debug)]
pub struct Llama {
    /// Token ids to vectors.
    pub embed: Embed,
    /// The blocks, first to last.
    pub blocks: Vec<Block>,
    /// Final norm and output projection.
    pub head: Head,
    #[module(skip)]
    config: LlamaConfig,
}

impl Llama {
    /// A model with random weights, the same for a seed on every device, for any number of threads (see [`init`]).
    ///
    /// # Errors
    /// [`ModelError::Config`] if the configuration breaks a rule.
    pub fn init(
        config: &LlamaConfig,
        seed: u64,
        kernels: Kernels,
        device: &Device,
    ) -> Result<Self, ModelError> {
        Self::from_values(config, kernels, device, &mut |path, shape| {
            let mut values = vec![0.0; shape.iter().product()];
            init::fill(init::distribution(config, path), seed, path, 0, &mut values);
            Ok::<_, ModelError>(values)
        })
    }

    /// A model whose parameter at each path, in visit order, has the flat, row-major `values(path, shape)`.
    ///
    /// # Errors
    /// [`ModelError::Config`] if the configuration breaks a rule, and whatever `values` returns.
    ///
    /// # Panics
    /// If `values` returns another number of elements than the shape has.
    pub fn from_values<E: From<ModelError>>(
        config: &LlamaConfig,
        kernels: Kernels,
        device: &Device,
        values: &mut dyn FnMut(&str, &[usize]) -> Result<Vec<f32>, E>,
    ) -> Result<Self, E> {
        Self::from_parts(config, kernels, device, &|_, whole| whole.to_vec(), values)
    }

    /// A rank's part of a model: [`from_values`](Self::from_values) where the parameter at each path has the shape
    /// `part(path, whole shape)`, and `values` is asked for that. It still needs [`with_ranks`](Self::with_ranks).
    ///
    /// # Errors
    /// As [`from_values`](Self::from_values).
    ///
    /// # Panics
    /// As [`from_values`](Self::from_values), and if a part has another number of dims.
    pub fn from_parts<E: From<ModelError>>(
        config: &LlamaConfig,
        kernels: Kernels,
        device: &Device,
        part: &dyn Fn(&str, &[usize]) -> Vec<usize>,
        values: &mut dyn FnMut(&str, &[usize]) -> Result<Vec<f32>, E>,
    ) -> Result<Self, E> {
        config.validate()?;
        let mut make = Maker { device, part, values };
        let LlamaConfig { attention_bias, mlp_bias, .. } = *config;
        let (d, q, k, ff) = (config.d_model, config.d_query(), config.d_key(), config.d_ff);
        let rope = RopeTables::new(config, device);
        let embed = Embed::new(make.param("embed.weight", [config.vocab_size, d])?);
        let blocks = (0..config.n_layers).map(|layer| {
            let at = |name: &str| format!("blocks.{layer}.{name}");
            let weights = BlockWeights {
                attention_norm: Norm::new(
                    make.param(&at("attention_norm.weight"), [d])?,
                    config.norm_eps,
                ),
                attention: [
                    make.linear(&at("wq"), d, q, attention_bias)?,
                    make.linear(&at("wk"), d, k, attention_bias)?,
                    make.linear(&at("wv"), d, k, attention_bias)?,
                    make.linear(&at("wo"), q, d, attention_bias)?,
                ],
                ffn_norm: Norm::new(make.param(&at("ffn_norm.weight"), [d])?, config.norm_eps),
                ffn: [
                    make.linear(&at("w_gate"), d, ff, mlp_bias)?,
                    make.linear(&at("w_up"), d, ff, mlp_bias)?,
                    make.linear(&at("w_down"), ff, d, mlp_bias)?,
                ],
            };
            Ok(Block::new(weights, rope.clone(), config.head_dim, kernels))
        });
        let blocks = blocks.collect::<Result<Vec<_>, E>>()?;
        let norm = Norm::new(make.param("head.norm.weight", [d])?, config.norm_eps);
        let n_outputs = config.n_outputs();
        let output = match config.ties_output() {
            true => None,
            false => Some(make.linear("head.output", d, n_outputs, false)?),
        };
        let head = Head::new(norm, output, n_outputs, kernels);
        Ok(Self { embed, blocks, head, config: config.clone() })
    }

    /// A model from its segments, as [`into_segments`](Self::into_segments) gives them.
    ///
    /// # Panics
    /// If the number of blocks is not the configuration's.
    pub fn from_segments(
        config: LlamaConfig,
        embed: Embed,
        blocks: Vec<Block>,
        head: Head,
    ) -> Self {
        assert_eq!(blocks.len(), config.n_layers, "a block for every layer");
        Self { embed, blocks, head, config }
    }

    /// The segments, for an executor that holds only some of them.
    pub fn into_segments(self) -> (Embed, Vec<Block>, Head) {
        (self.embed, self.blocks, self.head)
    }

    /// The configuration it was made from.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// The device that holds its weights.
    pub fn device(&self) -> Device {
        self.embed.weight.val().device()
    }

    /// The embedding's weight `[vocab_size, d_model]`, or this rank's rows of it, if it also serves as output projection.
    pub fn tied_weight(&self) -> Option<Tensor<2>> {
        self.head.is_tied().then(|| self.embed.weight.val())
    }

    /// The sum over kept targets of the negative log-probability in nats, shape `[1]`, as one graph: for a model that is small
    /// or alone. Training runs segment by segment instead.
    ///
    /// # Shapes
    /// - tokens, targets, document_starts: `[b, s]`; targets are -1 where ignored
    pub fn loss(
        &self,
        tokens: Tensor<2, Int>,
        targets: Tensor<2, Int>,
        document_starts: Option<Tensor<2, Int>>,
    ) -> Tensor<1> {
        let x = self.hidden(tokens, document_starts.clone());
        self.head.loss(x, targets, document_starts, self.tied_weight())
    }

    /// The residual stream after the last block, `[b, s, d_model]`.
    pub(crate) fn hidden(
        &self,
        tokens: Tensor<2, Int>,
        document_starts: Option<Tensor<2, Int>>,
    ) -> Tensor<3> {
        let x = self.embed.forward(tokens);
        let starts = std::iter::repeat_n(document_starts, self.blocks.len());
        self.blocks.iter().zip(starts).fold(x, |x, (block, starts)| block.forward(x, starts))
    }

    /// Path and shape of every parameter, in visit order, as they are here: a shard may be smaller than
    /// [`LlamaConfig::parameters`] says.
    pub fn parameters(&self) -> Vec<ParamInfo> {
        params::list(self)
    }

    /// Calls `f(path, shape, values)` for every parameter; see [`params::flat`].
    pub fn flat(&self, f: &mut dyn FnMut(&str, &[usize], Tensor<1>)) {
        params::flat(self, f);
    }

    /// Replaces every parameter by `f(path, shape, values)`; see [`params::map_flat`].
    #[must_use]
    pub fn map_flat(self, f: &mut dyn FnMut(&str, &[usize], Tensor<1>) -> Tensor<1>) -> Self {
        params::map_flat(self, f)
    }

    /// Cuts every parameter to the indices of one dim that `range(path, shape)` gives; see [`params::narrow`]. The
    /// configuration stays that of the whole, and the model needs [`with_ranks`](Self::with_ranks).
    #[must_use]
    pub fn narrow(self, range: &dyn Fn(&str, &[usize]) -> Option<(usize, Range<usize>)>) -> Self {
        params::narrow(self, range)
    }

    /// The same model whose parameters are trained where `is_trained(path)` is true, and frozen elsewhere: no gradient is
    /// computed for them, and no optimizer changes them.
    #[must_use]
    pub fn freeze(self, is_trained: &dyn Fn(&str) -> bool) -> Self {
        params::freeze(self, is_trained)
    }

    /// The same model with other kernels.
    #[must_use]
    pub fn with_kernels(mut self, kernels: Kernels) -> Self {
        self.blocks.iter_mut().for_each(|block| block.context.kernels = kernels);
        self.head.kernels = kernels;
        self
    }

    /// The same model that enters and leaves split weights through `region`, and whose ends hold the part of the vocabulary
    /// that `vocab` knows. Both at once, since a region that sums over ranks counts a whole vocabulary more than once.
    #[must_use]
    pub fn with_ranks(mut self, region: &Arc<dyn Region>, vocab: &Arc<dyn Vocab>) -> Self {
        self.blocks.iter_mut().for_each(|block| block.context.region = Arc::clone(region));
        let ends = Ends { region: Arc::clone(region), vocab: Arc::clone(vocab) };
        self.embed.ends = ends.clone();
        self.head.ends = ends;
        self
    }

    /// The same model whose head alone meets the other ranks in another way.
    #[must_use]
    pub fn with_head_ranks(mut self, region: &Arc<dyn Region>, vocab: &Arc<dyn Vocab>) -> Self {
        self.head.ends = Ends { region: Arc::clone(region), vocab: Arc::clone(vocab) };
        self
    }

    /// The same model whose blocks hold the positions, and attend to the rest of the sequences, as `attend` says.
    #[must_use]
    pub fn with_attend(mut self, attend: &Arc<dyn Attend>) -> Self {
        self.blocks.iter_mut().for_each(|block| block.context.attend = Arc::clone(attend));
        self
    }
}

/// Makes parameters from host values.
struct Maker<'a, E> {
    device: &'a Device,
    /// The shape of a parameter here, from its path and whole shape.
    part: &'a dyn Fn(&str, &[usize]) -> Vec<usize>,
    values: &'a mut dyn FnMut(&str, &[usize]) -> Result<Vec<f32>, E>,
}

impl<E> Maker<'_, E> {
    fn param<const D: usize>(
        &mut self,
        path: &str,
        whole: [usize; D],
    ) -> Result<Param<Tensor<D>>, E> {
        let shape: [usize; D] =
            (self.part)(path, &whole).try_into().expect("a part has the dims of the whole");
        let values = (self.values)(path, &shape)?;
        Ok(Param::from_data(TensorData::new(values, shape), self.device))
    }

    /// The layer at `path`, its weight and its bias in this order.
    fn linear(
        &mut self,
        path: &str,
        d_in: usize,
        d_out: usize,
        has_bias: bool,
    ) -> Result<Linear, E> {
        let weight = self.param(&format!("{path}.weight"), [d_in, d_out])?;
        let bias = has_bias.then(|| self.param(&format!("{path}.bias"), [d_out])).transpose()?;
        Ok(Linear { weight, bias, lora: None })
    }
}
