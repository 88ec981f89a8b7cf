//! The smallest model, sequence and step that still have everything a layout can get wrong.

use std::fmt::Display;

use super::Case;

/// A width that no power of two divides further than 16: slices that are off by one are seen.
const D_MODEL: usize = 48;
/// With [`D_MODEL`] more elements than a block of the gradient norm has, so that a matrix is divided among replicas.
const D_FF: usize = 102;
/// Odd, so that tensor ranks have parts of unequal size.
const VOCAB_SIZE: usize = 97;
const HEAD_DIM: usize = 8;
/// Heads up to which every tensor rank keeps two heads of keys.
const MANY_HEADS: usize = 64;
const SEQ_LEN: usize = 12;
const MICRO_BATCH: usize = 2;
/// No power of two: the tree of the exact sum has a ragged end.
const PER_REPLICA: usize = 3;
/// Gradients of a fresh model are nearly those of a model without blocks: larger weights make all parts count.
const INIT_STD: f64 = 0.2;

/// A setting that was made smaller, by the name it has in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: &'static str,
    /// What the configuration says.
    pub from: String,
    /// What is run.
    pub to: String,
}

/// See [`Case::shrunk`].
pub(super) fn shrunk(case: &Case) -> (Case, Vec<Change>) {
    let mut small = case.clone();
    small.seq_len = seq_len(case);
    small.micro_batch = case.micro_batch.min(MICRO_BATCH);
    small.n_micro_batches = per_replica(case) * case.layout.replicas();
    let (of, t) = (&case.model, case.layout.tensor);
    let model = &mut small.model;
    model.n_layers = n_layers(case);
    model.d_model = of.d_model.min(D_MODEL);
    (model.n_heads, model.n_kv_heads) = heads(case);
    model.head_dim = of.head_dim.min(HEAD_DIM);
    model.d_ff = (of.d_ff / t).min(D_FF.div_ceil(t)) * t;
    model.vocab_size = of.vocab_size.min(VOCAB_SIZE.max(t));
    model.max_seq_len = small.seq_len;
    model.init_std = INIT_STD;
    let changes = changes(case, &small);
    (small, changes)
}

/// A block for every piece of the pipeline; one more where the pieces are not equal.
fn n_layers(case: &Case) -> usize {
    let (n, pieces) = (case.model.n_layers, case.layout.n_pieces());
    (pieces + usize::from(!n.is_multiple_of(pieces))).max(2).min(n)
}

/// Query and key heads: the same ratio, few key heads on each tensor rank.
fn heads(case: &Case) -> (usize, usize) {
    let (model, t) = (&case.model, case.layout.tensor);
    let ratio = model.n_heads / model.n_kv_heads;
    let on_each = model.n_kv_heads / t;
    let keep = if 2 * t * ratio <= MANY_HEADS { on_each.min(2) } else { 1 };
    (keep * t * ratio, keep * t)
}

/// A multiple of what context and sequence parallelism need, with two positions at least in every chunk of a ring.
fn seq_len(case: &Case) -> usize {
    let layout = &case.layout;
    let ring = if layout.context > 1 { 2 * layout.context } else { 1 };
    let parts = if layout.sequence_parallel { layout.context * layout.tensor } else { 1 };
    let unit = least_common_multiple(ring, parts);
    SEQ_LEN.max(2 * ring).next_multiple_of(unit).min(case.seq_len)
}

/// Micro-batches of a replica: enough for a pipeline to be full, or for a sum to have a shape.
fn per_replica(case: &Case) -> usize {
    let (stages, pieces) = (case.layout.pipeline, case.layout.virtual_stages);
    let n = case.n_micro_batches / case.layout.replicas();
    match pieces {
        1 => n.min(PER_REPLICA.max(stages + 1)),
        // The interleaved schedule wants whole groups.
        _ => n.min(2 * stages),
    }
}

fn least_common_multiple(a: usize, b: usize) -> usize {
    (1..=b).map(|i| a * i).find(|n| n.is_multiple_of(b)).unwrap_or(a)
}

fn changes(from: &Case, to: &Case) -> Vec<Change> {
    fn change<T: Copy + Display + PartialEq>(key: &'static str, from: T, to: T) -> Option<Change> {
        (from != to).then(|| Change { key, from: from.to_string(), to: to.to_string() })
    }
    let (a, b) = (&from.model, &to.model);
    [
        change("n_layers", a.n_layers, b.n_layers),
        change("d_model", a.d_model, b.d_model),
        change("n_heads", a.n_heads, b.n_heads),
        change("n_kv_heads", a.n_kv_heads, b.n_kv_heads),
        change("head_dim", a.head_dim, b.head_dim),
        change("d_ff", a.d_ff, b.d_ff),
        change("vocab_size", a.vocab_size, b.vocab_size),
        change("init_std", a.init_std, b.init_std),
        change("seq_len", from.seq_len, to.seq_len),
        change("micro_batch", from.micro_batch, to.micro_batch),
        change("global_batch", from.global_batch(), to.global_batch()),
    ]
    .into_iter()
    .flatten()
    .collect()
}
