//! AdamW with its state by module path.
//!
//! The mathematics is that of `torch.optim.AdamW`. Scalars are computed in f64 and rounded to f32 once
//! (`burn::optim::AdamW` keeps its betas in f32, whose `1 - 0.999` is off by 5e-5, so it cannot match).
//! Parameters are handled flat and one by one, so the caller may pass a whole parameter or any shard.

use std::collections::BTreeMap;

use burn::tensor::{DType, Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::error::OptimError;
use crate::host::{self, Factors};

/// Hyper-parameters shared by all parameters. Learning rate and weight decay are given to each step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamWConfig {
    /// Decay of the mean of gradients, in `[0, 1)`.
    pub beta1: f64,
    /// Decay of the mean of squared gradients, in `[0, 1)`.
    pub beta2: f64,
    /// Added to the root of the corrected second moment.
    pub eps: f64,
}

impl Default for AdamWConfig {
    /// Betas 0.9 and 0.95, eps 1e-8: what LLaMA was trained with.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, eps: 1e-8 }
    }
}

impl AdamWConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`OptimError::Setting`] for a beta outside `[0, 1)` or an eps that is not positive as f32.
    pub fn validate(&self) -> Result<(), OptimError> {
        for (name, beta) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            // Rounded to f32 it must stay below one, or the moment would never forget.
            if !(beta >= 0.0 && (beta as f32) < 1.0) {
                let expected = "a number from 0 to below 1";
                return Err(OptimError::Setting { name, value: beta.to_string(), expected });
            }
        }
        if !(self.eps as f32 > 0.0 && self.eps.is_finite()) {
            let expected = "a positive number above 1e-45";
            return Err(OptimError::Setting { name: "eps", value: self.eps.to_string(), expected });
        }
        Ok(())
    }
}

/// Where the update runs. Both give the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Placement {
    /// Tensor operations on the parameter's own device: right for every backend.
    #[default]
    Device,
    /// One fused pass over host memory with moments kept there: faster where tensors live in host
    /// memory (Flex), and a transfer per step elsewhere.
    Host,
}

/// The optimizer's memory of one parameter, on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamState {
    /// Updates made so far.
    pub step: u64,
    /// Running mean of gradients, flat.
    pub moment1: Vec<f32>,
    /// Running mean of squared gradients, flat.
    pub moment2: Vec<f32>,
}

/// AdamW (Loshchilov and Hutter 2019, algorithm 2): decoupled decay, bias correction, eps outside the
/// root and after the correction.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use caravan_optim::{AdamW, AdamWConfig, Placement};
///
/// let device = Device::flex();
/// let mut adamw = AdamW::new(AdamWConfig::default(), Placement::Host)?;
/// let w = Tensor::<1>::from_floats([1.0, -2.0], &device);
/// let g = Tensor::<1>::from_floats([0.5, 0.5], &device);
/// let w = adamw.step("head.norm.weight", w, g, 1e-3, 0.0);
/// assert!((w.into_data().as_slice::<f32>().unwrap()[0] - 0.999).abs() < 1e-6);
/// # Ok::<(), caravan_optim::OptimError>(())
/// ```
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    placement: Placement,
    slots: BTreeMap<String, Slot>,
}

#[derive(Debug)]
struct Slot {
    step: u64,
    moments: Moments,
}

#[derive(Debug)]
enum Moments {
    Device(Box<[Tensor<1>; 2]>),
    Host(Vec<f32>, Vec<f32>),
}

impl AdamW {
    /// An optimizer without any state yet.
    ///
    /// # Errors
    /// As [`AdamWConfig::validate`].
    pub fn new(config: AdamWConfig, placement: Placement) -> Result<Self, OptimError> {
        config.validate()?;
        Ok(Self { config, placement, slots: BTreeMap::new() })
    }

    /// The hyper-parameters.
    pub fn config(&self) -> &AdamWConfig {
        &self.config
    }

    /// One update of the parameter (or shard) at `path`: returns its new value.
    ///
    /// `decay` is the weight decay of this parameter, 0 for one that does not decay.
    ///
    /// # Shapes
    /// `param`, `grad`: `[n]`, both f32, the same `n` in every call for a path.
    ///
    /// # Panics
    /// If lengths differ from each other or from the path's state, or a tensor is not f32.
    pub fn step(
        &mut self,
        path: &str,
        param: Tensor<1>,
        grad: Tensor<1>,
        lr: f64,
        decay: f64,
    ) -> Tensor<1> {
        self.step_scaled(path, param, grad, 1.0, lr, decay)
    }

    /// As [`step`](Self::step) with the gradient multiplied by `grad_scale` on the way (as f32, before
    /// anything else): clipping and the division by the token count without a pass of their own.
    ///
    /// # Panics
    /// As [`step`](Self::step).
    pub fn step_scaled(
        &mut self,
        path: &str,
        param: Tensor<1>,
        grad: Tensor<1>,
        grad_scale: f64,
        lr: f64,
        decay: f64,
    ) -> Tensor<1> {
        // Updates are no part of any graph: an autodiff parameter comes back as a fresh leaf.
        let (autodiff, require_grad) = (param.is_autodiff(), param.is_require_grad());
        let param = if autodiff { param.inner() } else { param };
        let grad = if grad.is_autodiff() { grad.inner() } else { grad };
        assert_eq!(param.dims(), grad.dims(), "`{path}`: parameter and gradient differ in length");

        let slot = match self.slots.remove(path) {
            Some(slot) => slot,
            None => self.fresh_slot(&param),
        };
        let step = slot.step + 1;
        let factors = self.factors(step, grad_scale, lr, decay);
        let (updated, moments) = match slot.moments {
            Moments::Device(moments) => {
                let [m, v] = *moments;
                assert_eq!(m.dims(), param.dims(), "`{path}`: state has another length");
                step_on_device(param, grad, m, v, factors)
            }
            Moments::Host(m, v) => {
                assert_eq!([m.len()], param.dims(), "`{path}`: state has another length");
                step_on_host(path, param, grad, m, v, factors)
            }
        };
        self.slots.insert(path.to_owned(), Slot { step, moments });
        if !autodiff {
            return updated;
        }
        let leaf = Tensor::from_inner(updated);
        if require_grad { leaf.require_grad() } else { leaf }
    }

    /// Paths that have state, sorted.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.slots.keys().map(String::as_str)
    }

    /// A copy of the state of `path`, bit for bit; `None` before its first update.
    pub fn export(&self, path: &str) -> Option<ParamState> {
        let slot = self.slots.get(path)?;
        let (moment1, moment2) = match &slot.moments {
            Moments::Host(m, v) => (m.clone(), v.clone()),
            Moments::Device(moments) => {
                let [m, v] = (**moments).clone().map(host_values);
                (m, v)
            }
        };
        Some(ParamState { step: slot.step, moment1, moment2 })
    }

    /// Puts back the state of a parameter of `n_elements` on `device`, bit for bit, replacing what was
    /// there.
    ///
    /// # Errors
    /// [`OptimError::StateSize`] where a moment does not have `n_elements`.
    pub fn import(
        &mut self,
        path: &str,
        n_elements: usize,
        state: ParamState,
        device: &Device,
    ) -> Result<(), OptimError> {
        for (what, found) in [("moment1", state.moment1.len()), ("moment2", state.moment2.len())] {
            if found != n_elements {
                let path = path.to_owned();
                return Err(OptimError::StateSize { path, what, expected: n_elements, found });
            }
        }
        let moments = match self.placement {
            Placement::Host => Moments::Host(state.moment1, state.moment2),
            Placement::Device => {
                let device = plain(device);
                let moments = [state.moment1, state.moment2];
                Moments::Device(Box::new(moments.map(|values| tensor(values, &device))))
            }
        };
        self.slots.insert(path.to_owned(), Slot { step: state.step, moments });
        Ok(())
    }

    fn fresh_slot(&self, param: &Tensor<1>) -> Slot {
        let [n] = param.dims();
        let moments = match self.placement {
            Placement::Host => Moments::Host(vec![0.0; n], vec![0.0; n]),
            Placement::Device => {
                let options = (&param.device(), DType::F32);
                Moments::Device(Box::new([0, 1].map(|_| Tensor::zeros([n], options))))
            }
        };
        Slot { step: 0, moments }
    }

    fn factors(&self, step: u64, grad_scale: f64, lr: f64, decay: f64) -> Factors {
        let AdamWConfig { beta1, beta2, eps } = self.config;
        let steps = step as f64;
        let keep = 1.0 - lr * decay;
        Factors {
            grad_scale: (grad_scale != 1.0).then_some(grad_scale as f32),
            beta1: beta1 as f32,
            one_minus_beta1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            one_minus_beta2: (1.0 - beta2) as f32,
            inverse_root_correction: (1.0 / (1.0 - beta2.powf(steps)).sqrt()) as f32,
            eps: eps as f32,
            keep: (keep != 1.0).then_some(keep as f32),
            step_size: (lr / (1.0 - beta1.powf(steps))) as f32,
        }
    }
}

/// The update in tensor operations; `host::update_chunk` is the same, operation by operation.
fn step_on_device(
    param: Tensor<1>,
    grad: Tensor<1>,
    m: Tensor<1>,
    v: Tensor<1>,
    f: Factors,
) -> (Tensor<1>, Moments) {
    let grad = match f.grad_scale {
        Some(k) => grad.mul_scalar(k),
        None => grad,
    };
    let square = grad.clone().mul(grad.clone());
    let m = m.mul_scalar(f.beta1).add(grad.mul_scalar(f.one_minus_beta1));
    let v = v.mul_scalar(f.beta2).add(square.mul_scalar(f.one_minus_beta2));
    let denominator = v.clone().sqrt().mul_scalar(f.inverse_root_correction).add_scalar(f.eps);
    let delta = m.clone().div(denominator).mul_scalar(f.step_size);
    let kept = match f.keep {
        Some(k) => param.mul_scalar(k),
        None => param,
    };
    (kept.sub(delta), Moments::Device(Box::new([m, v])))
}

fn step_on_host(
    path: &str,
    param: Tensor<1>,
    grad: Tensor<1>,
    mut m: Vec<f32>,
    mut v: Vec<f32>,
    f: Factors,
) -> (Tensor<1>, Moments) {
    let device = param.device();
    // Moves the buffer where the tensor is its only owner, copies it otherwise.
    let (mut param, grad) = (param.into_data(), grad.into_data());
    let (Ok(p), Ok(g)) = (param.as_mut_slice::<f32>(), grad.as_slice::<f32>()) else {
        panic!("`{path}`: parameter and gradient must be f32");
    };
    host::update(p, g, &mut m, &mut v, f);
    (Tensor::from_data(param, (&device, DType::F32)), Moments::Host(m, v))
}

fn host_values(tensor: Tensor<1>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("moments are created as f32")
}

fn tensor(values: Vec<f32>, device: &Device) -> Tensor<1> {
    let n = values.len();
    Tensor::from_data(TensorData::new(values, [n]), (device, DType::F32))
}

fn plain(device: &Device) -> Device {
    if device.is_autodiff() { device.clone().inner() } else { device.clone() }
}

#[cfg(test)]
mod tests;
