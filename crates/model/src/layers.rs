//! The two layers that hold weights inside a segment: a linear map and an RMS norm.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use caravan_kernels::Kernels;

/// `x weight`, and `+ bias` where there is one.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[d_in, d_out]`: the transpose of PyTorch's.
    pub weight: Param<Tensor<2>>,
    /// `[d_out]`; LLaMA has none, some of its relatives do.
    pub bias: Option<Param<Tensor<1>>>,
    /// A low-rank term beside the weight, while it is fine-tuned.
    pub lora: Option<Lora>,
}

/// The term `scale (x a) b` beside a frozen weight.
///
/// # Reference
/// Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, section 4.1.
#[derive(Module, Debug)]
pub struct Lora {
    /// `[d_in, rank]`
    pub a: Param<Tensor<2>>,
    /// `[rank, d_out]`
    pub b: Param<Tensor<2>>,
    /// `alpha / rank`
    #[module(skip)]
    pub scale: f64,
}

impl Linear {
    /// One matrix product for all leading dims, and the bias.
    ///
    /// # Shapes
    /// - x: `[b, s, d_in]`
    /// - returns `[b, s, d_out]`
    pub fn forward(&self, kernels: Kernels, x: Tensor<3>) -> Tensor<3> {
        self.add_bias(self.product(kernels, x))
    }

    /// Without the bias: where ranks hold rows of the weight, their products are summed before it is added.
    pub(crate) fn product(&self, kernels: Kernels, x: Tensor<3>) -> Tensor<3> {
        let Some(Lora { a, b, scale }) = &self.lora else {
            return kernels.linear(x, self.weight.val());
        };
        let low = kernels.linear(x.clone(), a.val()); // [b, s, rank]
        let term = kernels.linear(low, b.val()) * *scale;
        kernels.linear(x, self.weight.val()) + term
    }

    /// # Shapes
    /// - y and the result: `[b, s, d_out]`
    pub(crate) fn add_bias(&self, y: Tensor<3>) -> Tensor<3> {
        match &self.bias {
            Some(bias) => y + bias.val().unsqueeze(),
            None => y,
        }
    }

    /// Width of the output, as the weight has it here (a shard may be narrower than the configuration says).
    pub fn d_out(&self) -> usize {
        self.weight.val().dims()[1]
    }
}

/// Root mean square norm with a learned gain.
#[derive(Module, Debug)]
pub struct Norm {
    /// The gain, `[d_model]`.
    pub weight: Param<Tensor<1>>,
    #[module(skip)]
    eps: f64,
}

impl Norm {
    /// A norm from its gain.
    pub fn new(weight: Param<Tensor<1>>, eps: f64) -> Self {
        Self { weight, eps }
    }

    /// # Shapes
    /// - x and the result: `[b, s, d_model]`
    pub fn forward(&self, kernels: Kernels, x: Tensor<3>) -> Tensor<3> {
        kernels.rms_norm(x, self.weight.val(), self.eps)
    }
}
