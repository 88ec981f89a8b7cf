//! Which devices have kernels, and the composed kernels of those without their own.

use burn::tensor::Device;

/// Whether the dispatched operators know this device's backend; calling them elsewhere panics.
pub(crate) fn covers(device: &Device) -> bool {
    match device.clone().without_autodiff().as_dispatch() {
        #[cfg(feature = "flex")]
        burn::backend::DispatchDevice::Flex(_) => true,
        #[cfg(feature = "cuda")]
        burn::backend::DispatchDevice::Cube(_) => true,
        #[cfg(feature = "tch")]
        burn::backend::DispatchDevice::LibTorch(_) => true,
        _ => false,
    }
}

/// Gives the backends without kernels of their own the composed default bodies of a kernel trait.
macro_rules! composed_backends {
    ($kernels:ident) => {
        #[cfg(feature = "cuda")]
        impl $kernels for burn_cubecl::CubeBackend {}
        #[cfg(feature = "tch")]
        impl $kernels for burn::backend::LibTorch {}
    };
}
pub(crate) use composed_backends;
