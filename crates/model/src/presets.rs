//! Named shapes: small ones for this machine, and the published LLaMAs.
//!
//! Sizes of the published models are those of Meta's `params.json` and the Hugging Face `config.json` beside their
//! weights; the tests hold the parameter counts against the published ones. `15m` and `110m` have the shapes of
//! llama2.c's `stories15M` and `stories110M`; `8m` and `46m` those of the throughput comparison with PyTorch.

use crate::{Llama3Scaling, LlamaConfig, ModelError, RopeScaling};

/// Names of all presets, small to large within a family.
pub const PRESETS: [&str; 21] = [
    "tiny",
    "3m",
    "8m",
    "15m",
    "46m",
    "110m",
    "350m",
    "llama1-7b",
    "llama1-13b",
    "llama1-33b",
    "llama1-65b",
    "llama2-7b",
    "llama2-13b",
    "llama2-70b",
    "llama3-8b",
    "llama3-70b",
    "llama3.1-8b",
    "llama3.1-70b",
    "llama3.1-405b",
    "llama3.2-1b",
    "llama3.2-3b",
];

/// The configuration of a named shape.
///
/// # Errors
/// [`ModelError::UnknownPreset`] with the nearest name and the list of all.
pub fn preset(name: &str) -> Result<LlamaConfig, ModelError> {
    let config = match name {
        "tiny" => small(512, 64, 2, 4, 2, 172, 128),
        "3m" => LlamaConfig { tie_embeddings: true, ..small(2048, 192, 6, 6, 6, 512, 256) },
        "8m" => small(4096, 288, 6, 6, 6, 768, 256),
        "15m" => LlamaConfig { tie_embeddings: true, ..small(32000, 288, 6, 6, 6, 768, 256) },
        "46m" => small(8192, 512, 12, 8, 4, 1536, 512),
        "110m" => LlamaConfig { tie_embeddings: true, ..small(32000, 768, 12, 12, 12, 2048, 1024) },
        "350m" => small(32000, 1024, 24, 16, 16, 2816, 2048),
        "llama1-7b" => llama1(4096, 32, 32, 11008, 1e-6),
        "llama1-13b" => llama1(5120, 40, 40, 13824, 1e-6),
        "llama1-33b" => llama1(6656, 60, 52, 17920, 1e-6),
        "llama1-65b" => llama1(8192, 80, 64, 22016, 1e-5),
        "llama2-7b" => llama2(4096, 32, 32, 32, 11008),
        "llama2-13b" => llama2(5120, 40, 40, 40, 13824),
        "llama2-70b" => llama2(8192, 80, 64, 8, 28672),
        "llama3-8b" => llama3(4096, 32, 32, 14336),
        "llama3-70b" => llama3(8192, 80, 64, 28672),
        "llama3.1-8b" => stretched(llama3(4096, 32, 32, 14336), 8.0),
        "llama3.1-70b" => stretched(llama3(8192, 80, 64, 28672), 8.0),
        "llama3.1-405b" => stretched(llama3(16384, 126, 128, 53248), 8.0),
        "llama3.2-1b" => {
            let base = llama3(2048, 16, 32, 8192);
            LlamaConfig { tie_embeddings: true, ..stretched(base, 32.0) }
        }
        "llama3.2-3b" => {
            let base = llama3(3072, 28, 24, 8192);
            LlamaConfig { tie_embeddings: true, ..stretched(base, 32.0) }
        }
        _ => return Err(unknown(name)),
    };
    Ok(config)
}

fn small(
    vocab_size: usize,
    d_model: usize,
    n_layers: usize,
    n_heads: usize,
    n_kv_heads: usize,
    d_ff: usize,
    max_seq_len: usize,
) -> LlamaConfig {
    LlamaConfig {
        vocab_size,
        d_model,
        n_layers,
        n_heads,
        n_kv_heads,
        head_dim: d_model / n_heads,
        d_ff,
        rope_theta: 10000.0,
        rope_scaling: None,
        norm_eps: 1e-5,
        tie_embeddings: false,
        attention_bias: false,
        mlp_bias: false,
        n_classes: None,
        mean_pool: false,
        layer_mix: false,
        max_seq_len,
        init_std: 0.02,
    }
}

fn llama1(
    d_model: usize,
    n_layers: usize,
    n_heads: usize,
    d_ff: usize,
    norm_eps: f64,
) -> LlamaConfig {
    let base = small(32000, d_model, n_layers, n_heads, n_heads, d_ff, 2048);
    LlamaConfig { norm_eps, ..base }
}

fn llama2(
    d_model: usize,
    n_layers: usize,
    n_heads: usize,
    n_kv_heads: usize,
    d_ff: usize,
) -> LlamaConfig {
    small(32000, d_model, n_layers, n_heads, n_kv_heads, d_ff, 4096)
}

fn llama3(d_model: usize, n_layers: usize, n_heads: usize, d_ff: usize) -> LlamaConfig {
    let base = small(128256, d_model, n_layers, n_heads, 8, d_ff, 8192);
    LlamaConfig { rope_theta: 500000.0, ..base }
}

/// LLaMA 3.1's context of 131,072 tokens out of 8,192.
fn stretched(mut config: LlamaConfig, factor: f64) -> LlamaConfig {
    config.max_seq_len = 131072;
    config.rope_scaling = Some(RopeScaling::Llama3(Llama3Scaling {
        factor,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_seq_len: 8192,
    }));
    config
}

fn unknown(name: &str) -> ModelError {
    // Below this similarity (1 is equal) a suggestion confuses more than it helps.
    const CLOSE: f64 = 0.6;
    let lower = name.to_lowercase();
    let nearest_name = PRESETS
        .into_iter()
        .map(|known| (strsim::normalized_damerau_levenshtein(&lower, known), known))
        .filter(|(similarity, _)| *similarity >= CLOSE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known);
    ModelError::UnknownPreset { name: name.to_owned(), nearest_name, known: PRESETS.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As published: the safetensors totals on the Hugging Face pages of the models (LLaMA 1's 33B and 65B: table 2 of
    /// Touvron et al., 2023, rounds them to 32.5 and 65.2 billion), llama2.c's README rounded, and the count that
    /// the PyTorch comparison prints for `8m`.
    const PUBLISHED: [(&str, u64); 17] = [
        ("8m", 8_335_008),
        ("15m", 15_191_712),
        ("110m", 109_529_856),
        ("llama1-7b", 6_738_415_616),
        ("llama1-13b", 13_015_864_320),
        ("llama1-33b", 32_528_943_616),
        ("llama1-65b", 65_285_660_672),
        ("llama2-7b", 6_738_415_616),
        ("llama2-13b", 13_015_864_320),
        ("llama2-70b", 68_976_648_192),
        ("llama3-8b", 8_030_261_248),
        ("llama3-70b", 70_553_706_496),
        ("llama3.1-8b", 8_030_261_248),
        ("llama3.1-70b", 70_553_706_496),
        ("llama3.1-405b", 405_853_388_800),
        ("llama3.2-1b", 1_235_814_400),
        ("llama3.2-3b", 3_212_749_824),
    ];

    #[test]
    fn parameter_counts_are_the_published_ones() {
        for (name, count) in PUBLISHED {
            assert_eq!(preset(name).unwrap().param_count(), count, "{name}");
        }
    }

    #[test]
    fn every_preset_is_valid_and_heads_fill_the_width() {
        for name in PRESETS {
            let config = preset(name).unwrap();
            config.validate().unwrap();
            assert_eq!(config.d_query(), config.d_model, "{name}");
        }
    }

    #[test]
    fn an_unknown_name_gives_the_nearest() {
        let message = preset("lama3.2-1b").unwrap_err().to_string();
        assert!(message.contains("did you mean `llama3.2-1b`?"), "{message}");
        let message = preset("gpt2").unwrap_err().to_string();
        assert!(!message.contains("did you mean") && message.contains("8m, 15m"), "{message}");
    }
}
