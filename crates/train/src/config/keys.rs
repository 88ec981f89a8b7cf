//! The table of keys: short name and the section it lies in.

/// A configuration key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The name in `key=value` and in the file.
    pub name: &'static str,
    /// The table of the file.
    pub section: &'static str,
    /// Whether a resumed run may change it. Everything else is part of the run's identity.
    pub free: bool,
}

const fn key(section: &'static str, name: &'static str) -> Key {
    Key { name, section, free: false }
}

const fn free(section: &'static str, name: &'static str) -> Key {
    Key { name, section, free: true }
}

/// All keys, in the order in which they are written.
pub const KEYS: &[Key] = &[
    key("run", "seed"),
    key("run", "steps"),
    key("run", "seq_len"),
    key("run", "global_batch"),
    key("run", "micro_batch"),
    key("run", "dtype"),
    key("run", "kernels"),
    free("run", "recompute"),
    free("run", "eval_every"),
    free("run", "eval_tokens"),
    free("run", "checkpoint_every"),
    free("run", "keep_checkpoints"),
    free("run", "sample_tokens"),
    free("run", "memory_limit"),
    key("data", "text"),
    key("data", "weights"),
    key("data", "text_field"),
    key("data", "document_separator"),
    key("data", "val_fraction"),
    key("data", "packing"),
    key("data", "document_mask"),
    key("data", "tokenizer"),
    key("data", "vocab_size"),
    free("data", "cache_dir"),
    key("model", "preset"),
    key("model", "n_layers"),
    key("model", "d_model"),
    key("model", "n_heads"),
    key("model", "n_kv_heads"),
    key("model", "head_dim"),
    key("model", "d_ff"),
    key("model", "rope_theta"),
    key("model", "init_std"),
    key("model", "tie_embeddings"),
    key("optim", "peak_lr"),
    key("optim", "min_lr"),
    key("optim", "warmup_steps"),
    key("optim", "schedule"),
    key("optim", "weight_decay"),
    key("optim", "grad_clip"),
    key("optim", "beta1"),
    key("optim", "beta2"),
    free("parallel", "data_parallel"),
    free("parallel", "zero_stage"),
    free("parallel", "tensor_parallel"),
    free("parallel", "sequence_parallel"),
    free("parallel", "pipeline_parallel"),
    free("parallel", "context_parallel"),
    free("parallel", "shard_parallel"),
    free("parallel", "pipeline_schedule"),
    free("parallel", "virtual_stages"),
    free("parallel", "reduction"),
];

/// The key of that name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|k| k.name == name)
}

/// A help line for a name that no key has.
pub(super) fn suggestion(name: &str) -> String {
    let lower = name.to_lowercase().replace('-', "_");
    // Names that other programs use for what is a key here.
    let alias = match lower.as_str() {
        "lr" | "learning_rate" | "max_lr" => Some("peak_lr"),
        "batch" | "batch_size" | "bs" => Some("global_batch"),
        "layers" | "n_layer" | "num_layers" | "num_hidden_layers" => Some("n_layers"),
        "hidden_size" | "dim" | "n_embd" | "width" => Some("d_model"),
        "heads" | "n_head" | "num_attention_heads" => Some("n_heads"),
        "num_key_value_heads" | "kv_heads" => Some("n_kv_heads"),
        "intermediate_size" | "ffn_dim" => Some("d_ff"),
        "max_steps" | "num_steps" | "iterations" | "iters" => Some("steps"),
        "context" | "block_size" | "context_length" | "max_seq_len" => Some("seq_len"),
        "warmup" => Some("warmup_steps"),
        "wd" => Some("weight_decay"),
        "clip" | "max_grad_norm" => Some("grad_clip"),
        _ => None,
    };
    let nearest = alias.or_else(|| {
        KEYS.iter()
            .map(|k| (strsim::jaro_winkler(&lower, k.name), k.name))
            .filter(|(score, _)| *score > 0.8)
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, name)| name)
    });
    match nearest {
        Some(name) => format!("did you mean `{name}`?"),
        None => "the keys are listed by `caravan train --help`".to_owned(),
    }
}
