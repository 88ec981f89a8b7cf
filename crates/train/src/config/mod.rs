//! The run's configuration: one TOML file, `key=value` overrides on top, defaults below.
//!
//! Every key has one short name, whatever table it lies in: `peak_lr=3e-4` on the command line is
//! `peak_lr = 3e-4` under `[optim]` in the file. Unknown keys are refused, never ignored.

mod keys;
mod load;
mod stage;

use serde::{Deserialize, Serialize};

pub use keys::{KEYS, Key};
pub use stage::Stage;

/// Everything a run can be told; saved resolved as `config.toml` in the run folder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// Length, batches, cadence.
    pub run: RunSection,
    /// Text, tokenizer, split, packing.
    pub data: DataSection,
    /// Architecture.
    pub model: ModelSection,
    /// Optimizer and schedule.
    pub optim: OptimSection,
    /// How the work is split over ranks.
    pub parallel: ParallelSection,
    /// Stages of different scale, one after the other; none is a run of one scale.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<Stage>,
}

/// `[run]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunSection {
    /// Seed of the initial weights and of the data order.
    pub seed: u64,
    /// Optimizer updates.
    pub steps: u64,
    /// Tokens a model sees at once.
    pub seq_len: usize,
    /// Sequences per update.
    pub global_batch: usize,
    /// Sequences per forward on a rank. Part of the run's identity: it fixes the order of sums.
    pub micro_batch: usize,
    /// `f32`, or `bf16`: the factors of linear layers' products are rounded to bf16, forward and backward;
    /// weights, optimizer state, sums and everything else stay in f32.
    pub dtype: String,
    /// `fused` or `reference`.
    pub kernels: String,
    /// Recompute each block's activations in the backward pass instead of keeping them.
    pub recompute: bool,
    /// Updates between evaluations; 0 evaluates only at the end.
    pub eval_every: u64,
    /// Validation tokens scored by an evaluation on the way; the one at the end takes all.
    pub eval_tokens: u64,
    /// Updates between checkpoints; 0 saves only at the end.
    pub checkpoint_every: u64,
    /// Newest checkpoints that are kept.
    pub keep_checkpoints: usize,
    /// Tokens of each sample printed with an evaluation; 0 prints none.
    pub sample_tokens: usize,
    /// Upper bound of the predicted memory, e.g. `8GiB`; above it the run does not start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<String>,
}

impl Default for RunSection {
    fn default() -> Self {
        Self {
            seed: 1,
            steps: 1000,
            seq_len: 256,
            global_batch: 16,
            micro_batch: 8,
            dtype: "f32".to_owned(),
            kernels: "fused".to_owned(),
            recompute: false,
            eval_every: 100,
            eval_tokens: 65_536,
            checkpoint_every: 200,
            keep_checkpoints: 2,
            sample_tokens: 96,
            memory_limit: None,
        }
    }
}

/// `[data]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataSection {
    /// Files, folders and globs to train on.
    pub text: Vec<String>,
    /// Weight of each entry of `text` in the mix; empty: by size.
    pub weights: Vec<f64>,
    /// Field (JSON lines) or column (parquet) that holds the text.
    pub text_field: String,
    /// Text between two documents of a plain file; absent: one document per file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document_separator: Option<String>,
    /// Share of the text held back for validation.
    pub val_fraction: f64,
    /// `concat` or `best_fit`.
    pub packing: String,
    /// Keep attention inside a document.
    pub document_mask: bool,
    /// A tokenizer file; absent: one is trained on the training text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// Vocabulary of the tokenizer that is trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vocab_size: Option<usize>,
    /// Where tokenizers and shards are kept for later runs on the same text.
    pub cache_dir: String,
}

impl Default for DataSection {
    fn default() -> Self {
        Self {
            text: Vec::new(),
            weights: Vec::new(),
            text_field: "text".to_owned(),
            document_separator: None,
            val_fraction: 0.1,
            packing: "concat".to_owned(),
            document_mask: true,
            tokenizer: None,
            vocab_size: None,
            cache_dir: "runs/cache".to_owned(),
        }
    }
}

/// `[model]`: a preset, or sizes, or a preset with single sizes changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSection {
    /// A name of [`caravan_model::PRESETS`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
    /// Transformer blocks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_layers: Option<usize>,
    /// Width of the residual stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub d_model: Option<usize>,
    /// Query heads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_heads: Option<usize>,
    /// Key and value heads; absent: as many as query heads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_kv_heads: Option<usize>,
    /// Width of a head; absent: `d_model / n_heads`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    /// Width of the feed-forward layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub d_ff: Option<usize>,
    /// Base of the rotary position angles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_theta: Option<f64>,
    /// Standard deviation of initial weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_std: Option<f64>,
    /// Use the embedding as output projection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tie_embeddings: Option<bool>,
}

/// `[optim]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimSection {
    /// Highest learning rate.
    pub peak_lr: f64,
    /// Learning rate at the end; absent: a tenth of `peak_lr`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_lr: Option<f64>,
    /// Updates over which the rate rises; absent: a fiftieth of `steps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<u64>,
    /// `cosine`, `linear`, `wsd` or `constant`.
    pub schedule: String,
    /// Decoupled decay of matrices.
    pub weight_decay: f64,
    /// Largest global gradient norm.
    pub grad_clip: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
}

impl Default for OptimSection {
    fn default() -> Self {
        Self {
            peak_lr: 1e-3,
            min_lr: None,
            warmup_steps: None,
            schedule: "cosine".to_owned(),
            weight_decay: 0.1,
            grad_clip: 1.0,
            beta1: 0.9,
            beta2: 0.95,
        }
    }
}

/// `[parallel]`: degrees of the mesh, which multiply to the number of ranks, and how ranks work together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ParallelSection {
    /// Ranks that share the batch.
    pub data_parallel: usize,
    /// What data-parallel ranks shard: 0 nothing, 1 optimizer state, 2 gradients, 3 parameters.
    pub zero_stage: usize,
    /// Ranks that share each matrix.
    pub tensor_parallel: usize,
    /// Shard the sequence outside tensor-parallel regions.
    pub sequence_parallel: bool,
    /// Ranks that share the layers.
    pub pipeline_parallel: usize,
    /// Ranks that share each sequence.
    pub context_parallel: usize,
    /// Ranks inside a ZeRO group that is replicated outside.
    pub shard_parallel: usize,
    /// `gpipe`, `1f1b` or `interleaved`.
    pub pipeline_schedule: String,
    /// Stages per pipeline rank.
    pub virtual_stages: usize,
    /// `exact`: gradients summed in one fixed tree, whatever the layout; `fast`: by each rank first, with fewer bytes.
    pub reduction: String,
}

impl Default for ParallelSection {
    fn default() -> Self {
        Self {
            data_parallel: 1,
            zero_stage: 0,
            tensor_parallel: 1,
            sequence_parallel: false,
            pipeline_parallel: 1,
            context_parallel: 1,
            shard_parallel: 1,
            pipeline_schedule: "1f1b".to_owned(),
            virtual_stages: 1,
            reduction: "exact".to_owned(),
        }
    }
}
