//! Products on the CPU: in [`super::packed`] where its instructions are there, else Burn's own.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;

use super::{LinearKernels, Precision, rounding_product};

impl LinearKernels for Flex {
    fn matrix_product(a: FlexTensor, b: FlexTensor, precision: Precision) -> FlexTensor {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if let Some(product) = super::packed::matrix_product(&a, &b, precision) {
            return product;
        }
        rounding_product::<Self>(a, b, precision)
    }
}
