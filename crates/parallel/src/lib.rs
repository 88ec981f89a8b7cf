//! The segment executor: forward and backward block by block, with graphs kept or recomputed.
