//! Products on the CPU: Burn's own, and where the CPU has AMX the one in [`super::amx`].

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;

use super::{LinearKernels, Precision, rounding_product};

impl LinearKernels for Flex {
    fn matrix_product(a: FlexTensor, b: FlexTensor, precision: Precision) -> FlexTensor {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if super::amx::takes(&a, &b) {
            return super::amx::matrix_product(&a, &b, precision);
        }
        rounding_product::<Self>(a, b, precision)
    }
}
