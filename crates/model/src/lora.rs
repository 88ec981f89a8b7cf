//! Low-rank adapters: put beside the weights of a model, and folded into them again.

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::head::Reads;
use crate::init::{self, Init};
use crate::layers::{Linear, Lora};
use crate::{Block, Llama, ModelError};

/// The linear layers of a block that can have an adapter.
pub const TARGETS: [&str; 7] = ["wq", "wk", "wv", "wo", "w_gate", "w_up", "w_down"];

/// Which layers get adapters, and how large.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// Inner width of an adapter.
    pub rank: usize,
    /// The term is multiplied by `alpha / rank`.
    pub alpha: f64,
    /// Of [`TARGETS`].
    pub targets: Vec<String>,
}

impl LoraConfig {
    /// Checks every rule.
    ///
    /// # Errors
    /// [`ModelError::Config`] with what to change.
    pub fn validate(&self) -> Result<(), ModelError> {
        let wrong = |field, found: String, expected: String| ModelError::Config {
            field,
            found,
            expected,
            help: format!("rank 8, alpha 16 and targets of {} are usual", TARGETS.join(", ")),
        };
        if self.rank == 0 {
            return Err(wrong("lora rank", "0".into(), "must be 1 or more".into()));
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return Err(wrong("lora alpha", self.alpha.to_string(), "must be above 0".into()));
        }
        if let Some(other) = self.targets.iter().find(|t| !TARGETS.contains(&t.as_str())) {
            let expected = format!("each target must be one of {}", TARGETS.join(", "));
            return Err(wrong("lora targets", other.clone(), expected));
        }
        match self.targets.is_empty() {
            true => Err(wrong("lora targets", "empty".into(), "must name a layer".into())),
            false => Ok(()),
        }
    }
}

impl Block {
    /// The layer of a name in [`TARGETS`].
    fn target(&mut self, name: &str) -> &mut Linear {
        match name {
            "wq" => &mut self.wq,
            "wk" => &mut self.wk,
            "wv" => &mut self.wv,
            "wo" => &mut self.wo,
            "w_gate" => &mut self.w_gate,
            "w_up" => &mut self.w_up,
            "w_down" => &mut self.w_down,
            _ => panic!("{name} is no target"),
        }
    }
}

impl Llama {
    /// The model with adapters that change nothing yet: `a` is random, as PEFT's (uniform up to `1 / sqrt(d_in)`), the same
    /// for a seed everywhere, and `b` is zero.
    ///
    /// # Errors
    /// The configuration breaks a rule.
    pub fn with_lora(mut self, lora: &LoraConfig, seed: u64) -> Result<Self, ModelError> {
        lora.validate()?;
        let device = self.device();
        for (layer, block) in self.blocks.iter_mut().enumerate() {
            for name in &lora.targets {
                let linear = block.target(name);
                let [d_in, d_out] = linear.weight.val().dims();
                let path = format!("blocks.{layer}.{name}.lora.a");
                let mut a = vec![0.0; d_in * lora.rank];
                let bound = 1.0 / (d_in as f64).sqrt();
                init::fill(Init::Uniform { bound }, seed, &path, 0, &mut a);
                linear.lora = Some(Lora {
                    a: param(a, [d_in, lora.rank], &device),
                    b: param(vec![0.0; lora.rank * d_out], [lora.rank, d_out], &device),
                    scale: lora.alpha / lora.rank as f64,
                });
            }
        }
        Ok(self)
    }

    /// The model with its adapters folded into the weights, and none left.
    #[must_use]
    pub fn merged(mut self) -> Self {
        for block in &mut self.blocks {
            for name in TARGETS {
                let linear = block.target(name);
                if let Some(Lora { a, b, scale }) = linear.lora.take() {
                    let term = a.val().inner().matmul(b.val().inner()) * scale;
                    linear.weight = linear.weight.clone().map(|weight| {
                        let is_autodiff = weight.is_autodiff();
                        let merged = weight.inner() + term;
                        if is_autodiff { Tensor::from_inner(merged) } else { merged }
                    });
                }
            }
        }
        self
    }

    /// The model as a classifier: a new head with small random weights, drawn from the seed, in place of the one for tokens.
    ///
    /// # Errors
    /// [`ModelError::Config`] for fewer than two classes.
    pub fn with_classes(self, n_classes: usize, seed: u64) -> Result<Self, ModelError> {
        if n_classes < 2 {
            return Err(ModelError::Config {
                field: "n_classes",
                found: n_classes.to_string(),
                expected: "must be 2 or more".into(),
                help: "give examples of at least two classes".into(),
            });
        }
        let mut config = self.config().clone();
        config.n_classes = Some(n_classes);
        config.validate()?;
        let device = self.device();
        let (embed, blocks, mut head) = self.into_segments();
        let path = "head.output.weight";
        let mut values = vec![0.0; config.d_model * n_classes];
        init::fill(Init::Normal { std: config.init_std }, seed, path, 0, &mut values);
        let weight = param(values, [config.d_model, n_classes], &device);
        head.replace_output(Linear { weight, bias: None, lora: None }, n_classes);
        Ok(Self::from_segments(config, embed, blocks, head))
    }

    /// The same classifier that reads the mean of a document's final states up to a position. The final norm comes before
    /// the mean.
    #[must_use]
    pub fn with_mean_pool(self) -> Self {
        let mut config = self.config().clone();
        config.mean_pool = true;
        let (embed, blocks, head) = self.into_segments();
        let reads = Reads { mean: true, mix: config.layer_mix };
        Self::from_segments(config, embed, blocks, head.reading(reads))
    }

    /// The same classifier that reads a sum of the states after the lookup and after every block, each with a weight that is
    /// learned; in the beginning all weigh the same, and together 1.
    ///
    /// # Reference
    /// Peters et al., "Deep contextualized word representations", 2018, equation 1, without the softmax over the weights.
    #[must_use]
    pub fn with_layer_mix(self) -> Self {
        let device = self.device();
        let mut config = self.config().clone();
        config.layer_mix = true;
        let (mut embed, mut blocks, head) = self.into_segments();
        let weight = 1.0 / (blocks.len() + 1) as f32;
        let mix = || Some(param(vec![weight], [1], &device));
        embed.mix = mix();
        blocks.iter_mut().for_each(|block| block.mix = mix());
        let reads = Reads { mean: config.mean_pool, mix: true };
        Self::from_segments(config, embed, blocks, head.reading(reads))
    }
}

fn param<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Param<Tensor<D>> {
    Param::from_data(TensorData::new(values, shape), device)
}
