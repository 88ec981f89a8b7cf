//! Which tokens are in sequence number `i`: functions of (seed, epoch, index), with random access.
//!
//! Documents are put in a fixed random order, packed into rows of `seq_len + 1` tokens once per
//! shard set, and in each epoch the rows come in another order. Nothing here is replayed: sequence
//! 1,000,000,000 costs what sequence 0 costs.

mod best_fit;
mod concat;
mod mix;
mod permutation;
mod stream;

pub(crate) use mix::Mix;
pub(crate) use stream::{RowMut, Stream};
