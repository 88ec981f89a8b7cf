//! RMSNorm of Burn's own operations: what the fused kernel must equal.

use burn::tensor::Tensor;

/// See [`Kernels::rms_norm`](crate::Kernels::rms_norm).
pub(crate) fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    let mean_square = x.clone().square().mean_dim(D - 1); // [.., 1]
    let rstd = mean_square.add_scalar(eps).sqrt().recip();
    x * rstd * weight.unsqueeze::<D>()
}
