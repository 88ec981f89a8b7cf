//! Keys and values of positions already seen, in memory that is allocated once.

use burn::tensor::{Device, Tensor};

/// The keys and values of a batch of equally long sequences, for every block.
///
/// Each block has two tensors `[b, n_kv_heads, capacity, head_dim]` that are written in place while no one else holds them;
/// cloning a cache therefore costs a copy at the next [`extend`](crate::Forward::extend).
#[derive(Clone, Debug)]
pub struct KvCache {
    pub(crate) layers: Vec<LayerCache>,
    batch: usize,
    len: usize,
    capacity: usize,
}

/// The keys and values of one block.
#[derive(Clone, Debug)]
pub struct LayerCache {
    /// `None` only while [`append`](Self::append) works on it.
    keys: Option<Tensor<4>>,
    values: Option<Tensor<4>>,
}

impl KvCache {
    /// An empty cache; `n_kv_heads` has one entry per block.
    pub fn new(
        n_kv_heads: impl Iterator<Item = usize>,
        head_dim: usize,
        batch: usize,
        capacity: usize,
        device: &Device,
    ) -> Self {
        let layers = n_kv_heads
            .map(|heads| {
                let zeros = || Some(Tensor::zeros([batch, heads, capacity, head_dim], device));
                LayerCache { keys: zeros(), values: zeros() }
            })
            .collect();
        Self { layers, batch, len: 0, capacity }
    }

    /// The caches of the blocks, for an executor that runs them itself.
    pub fn layers_mut(&mut self) -> &mut [LayerCache] {
        &mut self.layers
    }

    /// Number of sequences.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Number of positions held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no position is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of positions there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets all positions from `len` on; the memory stays.
    ///
    /// # Panics
    /// If fewer are held.
    pub fn truncate(&mut self, len: usize) {
        assert!(len <= self.len, "cannot cut a cache of {} positions to {len}", self.len);
        self.len = len;
    }

    /// Checks that `n` positions of `batch` sequences fit, and returns the position of the first.
    ///
    /// # Panics
    /// If there is no room, or the cache is for another number of sequences.
    pub fn start(&self, batch: usize, n: usize) -> usize {
        assert_eq!(batch, self.batch, "the cache is for {} sequences, not {batch}", self.batch);
        assert!(
            self.len + n <= self.capacity,
            "{n} more positions after {} exceed the cache's capacity of {}",
            self.len,
            self.capacity
        );
        self.len
    }

    /// Counts positions that every layer has been given.
    pub fn advance(&mut self, n: usize) {
        self.len += n;
    }
}

impl LayerCache {
    /// Writes keys and values `[b, n_kv_heads, s, head_dim]` at positions `start ..` and returns views of all up to there.
    pub(crate) fn append(
        &mut self,
        k: Tensor<4>,
        v: Tensor<4>,
        start: usize,
    ) -> (Tensor<4>, Tensor<4>) {
        (write(&mut self.keys, k, start), write(&mut self.values, v, start))
    }
}

fn write(slot: &mut Option<Tensor<4>>, new: Tensor<4>, start: usize) -> Tensor<4> {
    let all = slot.take().expect("a layer's cache is always put back");
    let [b, heads, s, head_dim] = new.dims();
    // `all` is moved, not cloned: a backend writes in place only what nobody else holds.
    let all = all.slice_assign([0..b, 0..heads, start..start + s, 0..head_dim], new);
    let seen = all.clone().narrow(2, 0, start + s);
    *slot = Some(all);
    seen
}
