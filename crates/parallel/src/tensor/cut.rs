//! Taking a rank's part out of a whole model.

use caravan_collective::Communicator;
use caravan_model::Llama;

use super::{TensorError, attach, check, slice_of, whole_shape};

/// This rank's part of `model`, which is whole and the same on every rank of `group`, ready to work with the others
/// ([`attach`]). Adapters, a head for classes and a mix of layers come with it, and so does what is frozen.
///
/// # Errors
/// [`TensorError`] if the model cannot be cut over the group.
pub fn cut(
    model: Llama,
    group: &Communicator,
    sequence_parallel: bool,
) -> Result<Llama, TensorError> {
    if group.size() == 1 {
        return Ok(attach(model, group, sequence_parallel));
    }
    let config = model.config().clone();
    check(&config, group.size())?;
    let part = model.narrow(&|path, here| {
        let whole = whole_shape(path, here, &config);
        assert_eq!(whole, here, "`{path}` is cut already");
        let slice = slice_of(path, &whole, &config, group.rank(), group.size());
        slice.dim.map(|dim| (dim, slice.start..slice.start + slice.extent))
    });
    Ok(attach(part, group, sequence_parallel))
}
