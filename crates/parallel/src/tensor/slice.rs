//! Which slice of which parameter a rank holds, as pure data.

use std::ops::Range;

use caravan_model::LlamaConfig;

use super::TensorError;

/// Degrees offered as a way out of an error.
const MOST_OFFERED: usize = 64;

/// A range of indices of one dim of a parameter, all of the other dims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The dim that is cut; `None` for a parameter that every rank holds whole.
    pub dim: Option<usize>,
    /// First index of that dim; 0 where nothing is cut.
    pub start: usize,
    /// How many indices of it; of dim 0 where nothing is cut.
    pub extent: usize,
}

impl Slice {
    /// Whether every rank holds the whole parameter.
    pub fn is_replicated(&self) -> bool {
        self.dim.is_none()
    }

    /// The shape of the slice of a parameter of shape `global`.
    pub fn shape(&self, global: &[usize]) -> Vec<usize> {
        let mut shape = global.to_vec();
        if let Some(dim) = self.dim {
            shape[dim] = self.extent;
        }
        shape
    }

    /// The slice's elements as ranges of the parameter's flat, row-major index, all of one length and in the order in which the
    /// slice itself is laid out.
    pub fn runs(&self, global: &[usize]) -> impl ExactSizeIterator<Item = Range<usize>> + use<> {
        let dim = self.dim.unwrap_or(0);
        let inner: usize = global[dim + 1..].iter().product();
        let (stride, start, len) = (global[dim] * inner, self.start * inner, self.extent * inner);
        let n_outer: usize = global[..dim].iter().product();
        (0..n_outer).map(move |outer| {
            let start = outer * stride + start;
            start..start + len
        })
    }

    /// The slice's elements out of all of a parameter's.
    ///
    /// # Panics
    /// If `values` has another number of elements than `global`.
    pub fn cut<T: Copy>(&self, global: &[usize], values: &[T]) -> Vec<T> {
        assert_eq!(values.len(), global.iter().product::<usize>(), "a parameter of {global:?}");
        self.runs(global).flat_map(|run| values[run].iter().copied()).collect()
    }
}

/// Part `index` of `0..total` cut into `count` parts whose sizes differ by at most one.
pub fn part(total: usize, index: usize, count: usize) -> Range<usize> {
    index * total / count..(index + 1) * total / count
}

/// The slice of the parameter at `path`, of shape `global_shape`, that rank `rank` of `size` holds.
///
/// Q, K and V are cut by whole heads, their outputs and the feed-forward by the same columns and rows, the vocabulary into
/// parts that may differ by one token. Of an adapter the side that meets the cut dim of its weight is cut in the same way.
/// Norms, the biases of outputs, a mix of layers, and the projection to classes are not cut.
///
/// # Panics
/// For a parameter it has no rule for, and if the degree does not divide what must divide ([`check`]).
pub fn slice_of(
    path: &str,
    global_shape: &[usize],
    config: &LlamaConfig,
    rank: usize,
    size: usize,
) -> Slice {
    let even = |dim: usize, n_units: usize, unit: usize| {
        assert!(n_units.is_multiple_of(size), "{path}: {n_units} do not divide by {size} ranks");
        assert_eq!(global_shape[dim], n_units * unit, "{path} has shape {global_shape:?}");
        let extent = n_units / size * unit;
        Slice { dim: Some(dim), start: rank * extent, extent }
    };
    let vocabulary = |dim: usize| {
        let tokens = part(global_shape[dim], rank, size);
        Slice { dim: Some(dim), start: tokens.start, extent: tokens.len() }
    };
    let LlamaConfig { n_heads, n_kv_heads, head_dim, d_ff, .. } = *config;
    let (name, is_bias) = match path.strip_suffix(".bias") {
        Some(name) => (name, true),
        None => (path.strip_suffix(".weight").unwrap_or(path), false),
    };
    let whole = Slice { dim: None, start: 0, extent: global_shape[0] };
    if let Some((target, side)) = adapter(path) {
        let is_cut = matches!(side, Side::A) == holds_rows(target);
        return match target {
            _ if !is_cut => whole,
            "wq" => even(1, n_heads, head_dim),
            "wk" | "wv" => even(1, n_kv_heads, head_dim),
            "wo" => even(0, n_heads, head_dim),
            "w_gate" | "w_up" => even(1, d_ff, 1),
            "w_down" => even(0, d_ff, 1),
            _ => panic!("no rule says how tensor parallelism cuts `{path}`"),
        };
    }
    // A bias goes with the columns of its matrix; where ranks hold rows, it is added once to their sum.
    let columns = usize::from(!is_bias);
    match name.rsplit('.').next().unwrap_or(name) {
        "wo" | "w_down" if is_bias => whole,
        "embed" => vocabulary(0),
        "output" if config.n_classes.is_some() => whole,
        "output" => vocabulary(1),
        "wq" => even(columns, n_heads, head_dim),
        "wk" | "wv" => even(columns, n_kv_heads, head_dim),
        "wo" => even(0, n_heads, head_dim),
        "w_gate" | "w_up" => even(columns, d_ff, 1),
        "w_down" => even(0, d_ff, 1),
        "attention_norm" | "ffn_norm" | "norm" | "mix" => whole,
        _ => panic!("no rule says how tensor parallelism cuts `{path}`"),
    }
}

/// The whole shape of the parameter at `path`, of which a rank has `here`.
///
/// # Panics
/// If the model of `config` has no such parameter, nor one beside it: an adapter, or a part in a mix of layers.
pub fn whole_shape(path: &str, here: &[usize], config: &LlamaConfig) -> Vec<usize> {
    let all = config.parameters();
    let shape_of = |path: &str| all.iter().find(|info| info.path == path).map(|i| i.shape.clone());
    if let Some(shape) = shape_of(path) {
        return shape;
    }
    if path.ends_with(".mix") {
        return here.to_vec();
    }
    let (layer, side) = path.rsplit_once(".lora.").unwrap_or((path, ""));
    let weight = shape_of(&format!("{layer}.weight"));
    let weight = weight.unwrap_or_else(|| panic!("`{path}` is no parameter of the model"));
    match side {
        "a" => vec![weight[0], here[1]],
        _ => vec![here[0], weight[1]],
    }
}

/// A side of an adapter `(x a) b`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    A,
    B,
}

/// The layer whose adapter a path names, and which side of it.
pub(super) fn adapter(path: &str) -> Option<(&str, Side)> {
    let (layer, side) = path.rsplit_once(".lora.")?;
    let side = if side == "a" { Side::A } else { Side::B };
    Some((layer.rsplit('.').next().unwrap_or(layer), side))
}

/// Whether ranks hold rows of a layer's weight, not columns.
pub(super) fn holds_rows(layer: &str) -> bool {
    matches!(layer, "wo" | "w_down")
}

/// Checks that a model can be cut over `degree` ranks.
///
/// # Errors
/// [`TensorError::Indivisible`] or [`TensorError::Vocabulary`], with what to change.
pub fn check(config: &LlamaConfig, degree: usize) -> Result<(), TensorError> {
    let keys =
        [("n_heads", config.n_heads), ("n_kv_heads", config.n_kv_heads), ("d_ff", config.d_ff)];
    for (key, found) in keys {
        if degree == 0 || !found.is_multiple_of(degree) {
            let possible: Vec<String> = (1..=MOST_OFFERED)
                .filter(|degree| keys.iter().all(|(_, value)| value.is_multiple_of(*degree)))
                .map(|degree| degree.to_string())
                .collect();
            let possible = possible.join(", ");
            let help = match degree {
                0 => format!("set tensor_parallel to one of {possible}"),
                _ => format!(
                    "set tensor_parallel to one of {possible}, or {key} to a multiple of {degree}"
                ),
            };
            return Err(TensorError::Indivisible { degree, key, found, help });
        }
    }
    if config.vocab_size < degree {
        return Err(TensorError::Vocabulary { degree, vocab_size: config.vocab_size });
    }
    Ok(())
}

/// Checks that sequences can be cut over `degree` ranks, as sequence parallelism needs.
///
/// # Errors
/// [`TensorError::Sequence`].
pub fn check_sequence(seq_len: usize, degree: usize) -> Result<(), TensorError> {
    match seq_len.is_multiple_of(degree) {
        true => Ok(()),
        false => Err(TensorError::Sequence { degree, seq_len }),
    }
}

#[cfg(test)]
mod tests;
