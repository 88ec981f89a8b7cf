//! Text to token batches: readers, memory-mapped shards, document order, packing, a prefetching loader.
