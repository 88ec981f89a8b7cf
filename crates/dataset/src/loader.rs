//! Batches by number: any batch of any epoch, at once, from memory-mapped shards.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::order::{Mix, RowMut, Stream};
use crate::{DatasetError, Prefetch, ShardSet, Side, TokenBatch};

/// Longest sequence: positions are `i32` in the model.
pub const MAX_SEQ_LEN: usize = (i32::MAX - 1) as usize;

/// How documents become rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// One behind the other, cut every `seq_len` tokens: no padding but in the last row.
    #[default]
    ConcatSplit,
    /// Whole documents wherever they fit, the rest padded.
    BestFit,
}

/// What sequences to make.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoaderConfig {
    /// Tokens that go into the model per sequence. Default 256.
    pub seq_len: usize,
    /// Seed of all orders.
    pub seed: u64,
    /// How documents become rows.
    pub packing: Packing,
    /// Whether attention is to stay inside documents. Default on.
    pub document_mask: bool,
    /// Share of the sequences per source, in any unit; empty mixes by size. With weights, no row
    /// holds documents of two sources, and each source begins its next epoch when it is used up. 0
    /// leaves a source out.
    pub weights: Vec<f64>,
}

impl Default for LoaderConfig {
    fn default() -> Self {
        Self {
            seq_len: 256,
            seed: 0,
            packing: Packing::default(),
            document_mask: true,
            weights: Vec::new(),
        }
    }
}

/// Makes batches of one side of a set. Everything is a function of the set, the configuration and
/// the sequence number; the same sequence comes out whatever batch it is in.
#[derive(Debug)]
pub struct Loader {
    set: Arc<ShardSet>,
    side: Side,
    config: LoaderConfig,
    streams: Vec<Stream>,
    mix: Option<Mix>,
    sequences_per_epoch: u64,
}

impl Loader {
    /// Indexes one side of a set. The index takes 16 bytes of memory per document (per piece with
    /// [`Packing::BestFit`]) and 8 per row; reading batches adds nothing to it.
    ///
    /// # Errors
    /// A `seq_len` of 0, fewer than `seq_len + 1` tokens on this side (or in a source that has a
    /// weight), weights that do not fit.
    pub fn new(set: Arc<ShardSet>, side: Side, config: LoaderConfig) -> Result<Self, DatasetError> {
        let seq_len = config.seq_len;
        if seq_len == 0 || seq_len > MAX_SEQ_LEN {
            return Err(DatasetError::SeqLen { found: seq_len });
        }
        let split = set.split(side);
        let enough = |of: String, n_tokens: u64| {
            if n_tokens > seq_len as u64 {
                return Ok(());
            }
            Err(DatasetError::TooLittleData { side, of, n_tokens, seq_len })
        };
        enough(String::new(), split.n_tokens())?;
        let stream = |documents, number| {
            Stream::new(split, documents, config.packing, seq_len, (config.seed, number))
        };
        let (streams, mix) = if config.weights.is_empty() {
            (vec![stream(0..split.n_documents(), 0)], None)
        } else {
            let mix = Mix::new(&config.weights, set.n_sources())?;
            let mut streams = Vec::new();
            for source in 0..set.n_sources() {
                let documents = if mix.draws(source) { split.documents_of(source) } else { 0..0 };
                if mix.draws(source) {
                    let n_tokens = documents.clone().map(|i| split.document_len(i)).sum();
                    enough(format!(" of source {source}"), n_tokens)?;
                }
                streams.push(stream(documents, source as u64 + 1));
            }
            (streams, Some(mix))
        };
        let sequences_per_epoch = streams.iter().map(Stream::n_rows).sum();
        Ok(Self { set, side, config, streams, mix, sequences_per_epoch })
    }

    /// Sequences in one pass over the data. With weights, sources are passed over at different
    /// speeds; this is the sum of their rows.
    pub fn sequences_per_epoch(&self) -> u64 {
        self.sequences_per_epoch
    }

    /// The configuration.
    pub fn config(&self) -> &LoaderConfig {
        &self.config
    }

    /// The set.
    pub fn set(&self) -> &Arc<ShardSet> {
        &self.set
    }

    /// The side.
    pub fn side(&self) -> Side {
        self.side
    }

    /// Sequences `first_sequence .. first_sequence + rows`. Numbers go on over epochs: the epoch is
    /// `number / sequences_per_epoch`.
    ///
    /// # Errors
    /// An id outside the vocabulary, if a shard is damaged.
    pub fn batch(&self, first_sequence: u64, rows: usize) -> Result<TokenBatch, DatasetError> {
        let mut batch = TokenBatch::default();
        self.batch_into(first_sequence, rows, &mut batch)?;
        Ok(batch)
    }

    /// As [`Loader::batch`], into a batch whose memory is used again.
    ///
    /// # Errors
    /// As [`Loader::batch`]; the content of `batch` is then of no use.
    pub fn batch_into(
        &self,
        first_sequence: u64,
        rows: usize,
        batch: &mut TokenBatch,
    ) -> Result<(), DatasetError> {
        let seq_len = self.config.seq_len;
        batch.reset(rows, seq_len, self.config.document_mask);
        let split = self.set.split(self.side);
        let padding = self.set.manifest().eos_id;
        let tokens = batch.tokens.chunks_exact_mut(seq_len + 1);
        let parts = tokens.zip(&mut batch.document_ends).zip(&mut batch.n_tokens);
        for (i, ((tokens, ends), n_tokens)) in (0..).zip(parts) {
            let index = first_sequence.wrapping_add(i);
            let (stream, index) = self.mix.as_ref().map_or((0, index), |mix| mix.at(index));
            let mut row = RowMut { tokens, ends };
            let n = self.streams[stream].fill(split, index, &mut row)?;
            row.tokens[n..].fill(padding);
            *n_tokens = n as u32;
        }
        Ok(())
    }

    /// The batches of `rows` sequences that begin at `sequences`, made by a thread that runs ahead.
    pub fn prefetch(
        self: Arc<Self>,
        sequences: impl Iterator<Item = u64> + Send + 'static,
        rows: usize,
    ) -> Prefetch {
        Prefetch::new(self, sequences, rows)
    }
}
