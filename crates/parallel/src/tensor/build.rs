//! Making a rank's part of a model, without the whole anywhere.

use burn::tensor::Device;
use caravan_collective::Communicator;
use caravan_model::init::{distribution, fill};
use caravan_model::{Kernels, Llama, LlamaConfig, ModelError};
use rayon::prelude::*;

use super::{Slice, TensorError, attach, check, slice_of};

/// This rank's part of [`Llama::init`]: the same values at the same places, each drawn by its global index.
///
/// # Errors
/// [`TensorError`] if the configuration breaks a rule or cannot be cut over the group.
pub fn init(
    config: &LlamaConfig,
    seed: u64,
    kernels: Kernels,
    device: &Device,
    group: &Communicator,
    sequence_parallel: bool,
) -> Result<Llama, TensorError> {
    from_values(config, kernels, device, group, sequence_parallel, &mut |path, shape, slice| {
        Ok(initial_values(config, seed, path, shape, slice))
    })
}

/// This rank's part of a model whose parameter at each path, in visit order, has the flat, row-major
/// `values(path, whole shape, slice)`: the elements of the slice, in its own layout ([`Slice::runs`]).
///
/// # Errors
/// [`TensorError`] if the configuration breaks a rule or cannot be cut over the group, and whatever `values` returns.
///
/// # Panics
/// If `values` returns another number of elements than the slice has.
pub fn from_values<E: From<TensorError>>(
    config: &LlamaConfig,
    kernels: Kernels,
    device: &Device,
    group: &Communicator,
    sequence_parallel: bool,
    values: &mut dyn FnMut(&str, &[usize], &Slice) -> Result<Vec<f32>, E>,
) -> Result<Llama, E> {
    config.validate().map_err(TensorError::from)?;
    check(config, group.size())?;
    let slice =
        |path: &str, whole: &[usize]| slice_of(path, whole, config, group.rank(), group.size());
    // Asked for a part's values, the model tells the part's shape only.
    let shapes = config.parameters();
    let mut shapes = shapes.iter();
    let model = Llama::from_parts(
        config,
        kernels,
        device,
        &|path, whole| slice(path, whole).shape(whole),
        &mut |path, _| {
            let info = shapes.next().filter(|info| info.path == path);
            let whole = &info.expect("both go in visit order").shape;
            values(path, whole, &slice(path, whole)).map_err(Failure::Values)
        },
    );
    let model = model.map_err(|failure| match failure {
        Failure::Model(error) => TensorError::from(error).into(),
        Failure::Values(error) => error,
    })?;
    Ok(attach(model, group, sequence_parallel))
}

/// Why a model could not be made: its own error, or its caller's.
enum Failure<E> {
    Model(ModelError),
    Values(E),
}

impl<E> From<ModelError> for Failure<E> {
    fn from(error: ModelError) -> Self {
        Self::Model(error)
    }
}

/// The initial values of a slice; see [`fill`].
fn initial_values(
    config: &LlamaConfig,
    seed: u64,
    path: &str,
    shape: &[usize],
    slice: &Slice,
) -> Vec<f32> {
    let init = distribution(config, path);
    let runs = slice.runs(shape);
    let mut values = vec![0.0; slice.shape(shape).iter().product()];
    let len = values.len() / runs.len();
    let starts: Vec<usize> = runs.map(|run| run.start).collect();
    values
        .par_chunks_mut(len)
        .zip(starts)
        .for_each(|(values, start)| fill(init, seed, path, start as u64, values));
    values
}
