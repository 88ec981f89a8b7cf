//! Models in GGUF files: configuration from the metadata, weights decoded to f32.
//!
//! | key | field |
//! |---|---|
//! | `llama.embedding_length`, `block_count`, `feed_forward_length`, `context_length` | `d_model`, `n_layers`, `d_ff`, `max_seq_len` |
//! | `llama.attention.head_count`, `head_count_kv`, `key_length`, `layer_norm_rms_epsilon` | `n_heads`, `n_kv_heads`, `head_dim`, `norm_eps` |
//! | `llama.rope.freq_base`, `rope.scaling.type`, `rope.scaling.factor`, tensor `rope_freqs.weight` | `rope_theta`, `rope_scaling` |
//!
//! Without a tensor `output.weight` the embedding is also the output projection. The rows of query and key matrices lie in
//! the order of Meta's rotary embedding, which turns neighbours; [`half_split`] brings them into ours.
//!
//! # Reference
//! `gguf-py/gguf/constants.py` (names) and `conversion/llama.py` (order of rows, rotary factors) of ggml-org/llama.cpp.

use std::path::Path;
use std::time::Instant;

use burn::tensor::Device;
use caravan_gguf::{Header, TensorInfo, Value};
use caravan_kernels::Kernels;

use super::dtype;
use super::read::{LoadReport, Mapped};
use super::{EndIds, SpecialIds};
use crate::{LinearScaling, Llama, Llama3Scaling, LlamaConfig, ModelError, RopeScaling, rope};

/// Reads a model from a GGUF file of the architecture `llama`; parameters become f32.
///
/// # Errors
/// Another architecture, a setting that is not supported, a tensor that is missing or has another shape or a type that is
/// not decoded, a damaged file.
pub fn load_gguf(
    path: &Path,
    kernels: Kernels,
    device: &Device,
) -> Result<(Llama, LoadReport), ModelError> {
    let begun = Instant::now();
    let header = Header::open(path)?;
    let config = config(&header)?;
    let mapped = Mapped::open(path)?;
    let missing: Vec<String> = config
        .parameters()
        .iter()
        .map(|info| stored_name(&info.path))
        .filter(|name| !header.tensors().contains_key(name))
        .collect();
    if !missing.is_empty() {
        return Err(ModelError::MissingTensors { path: path.to_owned(), names: missing });
    }
    let mut used = vec![ROPE_FACTORS.to_owned()];
    let model = Llama::from_values(&config, kernels, device, &mut |path, shape| {
        let name = stored_name(path);
        let values = values(&header, &mapped, &name, &header.tensors()[&name], shape)?;
        used.push(name);
        Ok::<_, ModelError>(in_our_order(path, shape, values, &config))
    })?;
    let unused = header.tensors().keys().filter(|name| !used.contains(name)).cloned().collect();
    let report = LoadReport {
        files: vec![path.to_owned()],
        n_tensors: used.len() - 1,
        unused,
        notes: Vec::new(),
        special: special(&header)?,
        ends: EndIds::of_gguf(&header)?,
        n_bytes: mapped.len() as u64,
        secs: begun.elapsed().as_secs_f64(),
    };
    Ok((model, report))
}

/// BOS and EOS as the metadata has them.
fn special(header: &Header) -> Result<SpecialIds, ModelError> {
    let id = |key: &str| -> Result<Option<u32>, ModelError> {
        let id = header.size(&format!("tokenizer.ggml.{key}_token_id"))?;
        Ok(id.and_then(|id| u32::try_from(id).ok()))
    };
    Ok(SpecialIds { bos: id("bos")?, eos: id("eos")? })
}

const ROPE_FACTORS: &str = "rope_freqs.weight";

fn config(header: &Header) -> Result<LlamaConfig, ModelError> {
    const ARCHITECTURE: &str = "general.architecture";
    if header.string(ARCHITECTURE)? != Some("llama") {
        let help = "only LLaMA and what computes the same is read";
        return Err(header.wrong_with(ARCHITECTURE, "\"llama\"", help).into());
    }
    if header.size("split.count")?.is_some_and(|n| n > 1) {
        let help = "join the parts first with `llama-gguf-split --merge`";
        return Err(header.wrong_with("split.count", "1, a model in one file", help).into());
    }
    if header.size("llama.expert_count")?.is_some_and(|n| n > 0) {
        let help = "mixtures of experts are not read";
        return Err(header.wrong_with("llama.expert_count", "0", help).into());
    }
    let size = |key: &str| -> Result<usize, ModelError> {
        let key = format!("llama.{key}");
        Ok(header.size(&key)?.ok_or_else(|| header.wrong(&key, "a whole number"))?)
    };
    let optional = |key: &str| header.size(&format!("llama.{key}"));
    let (d_model, n_heads) = (size("embedding_length")?, size("attention.head_count")?);
    let head_dim = optional("attention.key_length")?.unwrap_or(d_model / n_heads.max(1));
    for key in ["llama.attention.value_length", "llama.rope.dimension_count"] {
        if header.size(key)?.is_some_and(|n| n != head_dim) {
            let expected = format!("{head_dim}, the width of a head");
            let help = "heads whose keys, values and rotary embedding differ in width are not read";
            return Err(header.wrong_with(key, &expected, help).into());
        }
    }
    let max_seq_len = size("context_length")?;
    let theta = header.number("llama.rope.freq_base")?.unwrap_or(10000.0);
    // Of f32 values, as the file has them, the decimal that was meant.
    let decimal = |x: f64| (x as f32).to_string().parse().unwrap_or(x);
    let vocab_size = match header.tensors().get("token_embd.weight") {
        Some(TensorInfo { shape, .. }) if shape.len() == 2 => shape[0],
        _ => size("vocab_size")?,
    };
    let has = |name: &str| header.tensors().contains_key(name);
    let config = LlamaConfig {
        vocab_size,
        d_model,
        n_layers: size("block_count")?,
        n_heads,
        n_kv_heads: optional("attention.head_count_kv")?.unwrap_or(n_heads),
        head_dim,
        d_ff: size("feed_forward_length")?,
        rope_theta: decimal(theta),
        rope_scaling: None,
        norm_eps: decimal(header.number("llama.attention.layer_norm_rms_epsilon")?.unwrap_or(1e-5)),
        tie_embeddings: !has("output.weight"),
        attention_bias: has("blk.0.attn_q.bias"),
        mlp_bias: has("blk.0.ffn_up.bias"),
        n_classes: None,
        mean_pool: false,
        layer_mix: false,
        max_seq_len,
        init_std: 0.02,
    };
    config.validate()?;
    let config = LlamaConfig { rope_scaling: scaling(header, &config)?, ..config };
    config.validate()?;
    Ok(config)
}

/// The scaling that the metadata states, or the one whose factors the file has as a tensor.
fn scaling(header: &Header, config: &LlamaConfig) -> Result<Option<RopeScaling>, ModelError> {
    const TYPE: &str = "llama.rope.scaling.type";
    match header.string(TYPE)? {
        None | Some("none") => {}
        Some("linear") => {
            let key = "llama.rope.scaling.factor";
            let factor = header.number(key)?.ok_or_else(|| header.wrong(key, "a number"))?;
            return Ok(Some(RopeScaling::Linear(LinearScaling { factor })));
        }
        Some(_) => {
            let help = "models with other scalings (yarn, longrope, ...) are not read";
            return Err(header.wrong_with(TYPE, "\"none\" or \"linear\"", help).into());
        }
    }
    let Some(info) = header.tensors().get(ROPE_FACTORS) else { return Ok(None) };
    let mapped = Mapped::open(header.path())?;
    let factors = values(header, &mapped, ROPE_FACTORS, info, &[config.head_dim / 2])?;
    llama3_of_factors(&factors, config).map(Some).ok_or_else(|| ModelError::Key {
        path: header.path().to_owned(),
        key: ROPE_FACTORS.to_owned(),
        found: format!("factors up to {}", factors.iter().fold(0f32, |m, f| m.max(*f))),
        expected: "the factors of LLaMA 3.1 or 3.2".to_owned(),
        help: "take the model in Hugging Face form, whose config.json states the scaling"
            .to_owned(),
    })
}

/// The LLaMA 3 scaling with these divisors of the frequencies. Low and high factor are 1 and 4 in all of Meta's models; the
/// factor is the largest divisor, and the original context a power of two.
fn llama3_of_factors(factors: &[f32], config: &LlamaConfig) -> Option<RopeScaling> {
    let factor = f64::from(factors.iter().copied().reduce(f32::max)?);
    let plain = rope::frequencies(config.rope_theta, config.head_dim, None);
    (5..=20).map(|power| 1usize << power).find_map(|original_max_seq_len| {
        let (low_freq_factor, high_freq_factor) = (1.0, 4.0);
        let scaling =
            Llama3Scaling { factor, low_freq_factor, high_freq_factor, original_max_seq_len };
        let scaling = RopeScaling::Llama3(scaling);
        let ours = rope::frequencies(config.rope_theta, config.head_dim, Some(scaling));
        let pairs = plain.iter().zip(&ours).zip(factors);
        // The file has the divisors in f32.
        let agrees = pairs.map(|((p, o), f)| (p / o / f64::from(*f) - 1.0).abs()).all(|d| d < 1e-5);
        agrees.then_some(scaling)
    })
}

/// The name in the file of the parameter at `path`.
fn stored_name(path: &str) -> String {
    let (stem, kind) = path.rsplit_once('.').expect("a parameter of a layer");
    match stem.split('.').collect::<Vec<_>>()[..] {
        ["embed"] => "token_embd.weight".to_owned(),
        ["head", "norm"] => "output_norm.weight".to_owned(),
        ["head", "output"] => "output.weight".to_owned(),
        ["blocks", layer, part] => {
            let part = match part {
                "attention_norm" => "attn_norm",
                "wq" => "attn_q",
                "wk" => "attn_k",
                "wv" => "attn_v",
                "wo" => "attn_output",
                "ffn_norm" => "ffn_norm",
                "w_gate" => "ffn_gate",
                "w_up" => "ffn_up",
                "w_down" => "ffn_down",
                _ => panic!("{part} is no part of a block"),
            };
            format!("blk.{layer}.{part}.{kind}")
        }
        _ => panic!("{path} is no parameter of a LLaMA"),
    }
}

/// The numbers of a tensor whose parameter has our `shape`, in the file's order.
fn values(
    header: &Header,
    mapped: &Mapped,
    name: &str,
    info: &TensorInfo,
    shape: &[usize],
) -> Result<Vec<f32>, ModelError> {
    let mut expected = shape.to_vec();
    if name != "token_embd.weight" {
        expected.reverse();
    }
    if info.shape != expected {
        let (path, name) = (header.path().to_owned(), name.to_owned());
        return Err(ModelError::ShapeMismatch { path, name, expected, found: info.shape.clone() });
    }
    // The file may have been cut since its header was read.
    match mapped.bytes().get(info.range.clone()) {
        Some(bytes) => Ok(info.quant.decode(bytes)),
        None => Err(header.wrong(name, "inside the file").into()),
    }
}

/// From the file's `[d_out, d_in]` to our `[d_in, d_out]`, queries and keys from neighbours to halves.
fn in_our_order(path: &str, shape: &[usize], values: Vec<f32>, config: &LlamaConfig) -> Vec<f32> {
    let layer = path.rsplit_once('.').map_or(path, |(stem, _)| stem);
    let is_turned = layer.ends_with(".wq") || layer.ends_with(".wk");
    let row = if shape.len() == 2 { shape[0] } else { 1 };
    let values = if is_turned { half_split(&values, row, config.head_dim) } else { values };
    match shape {
        [d_in, d_out] if layer != "embed" => dtype::transpose(&values, *d_out, *d_in),
        _ => values,
    }
}

/// Rows of a head from the order `0, half, 1, half + 1, ...` to `0, 1, ..., half, half + 1, ...`.
fn half_split(values: &[f32], row: usize, head_dim: usize) -> Vec<f32> {
    let half = head_dim / 2;
    let mut out = vec![0.0; values.len()];
    let heads = out.chunks_exact_mut(head_dim * row).zip(values.chunks_exact(head_dim * row));
    for (out, head) in heads {
        for (i, row_values) in head.chunks_exact(row).enumerate() {
            let to = i % 2 * half + i / 2;
            out[to * row..(to + 1) * row].copy_from_slice(row_values);
        }
    }
    out
}

impl EndIds {
    /// EOS and, where a model has one of its own, the end of a turn.
    pub(super) fn of_gguf(header: &Header) -> Result<Self, ModelError> {
        let mut ids = Vec::new();
        for key in ["eos", "eot", "eom"] {
            if let Some(id) = header.size(&format!("tokenizer.ggml.{key}_token_id"))?
                && let Ok(id) = u32::try_from(id)
                && !ids.contains(&id)
            {
                ids.push(id);
            }
        }
        Ok(Self(ids))
    }
}

/// The chat template of a file.
pub(super) fn template(path: &Path) -> Result<Option<String>, ModelError> {
    let header = Header::open(path)?;
    match header.metadata().get("tokenizer.chat_template") {
        Some(Value::String(text)) => Ok(Some(text.clone())),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preset;

    #[test]
    fn heads_are_split_into_halves() {
        // Two heads of four rows of one number.
        let found = half_split(&[0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 12.0, 13.0], 1, 4);
        assert_eq!(found, [0.0, 2.0, 1.0, 3.0, 10.0, 12.0, 11.0, 13.0]);
    }

    #[test]
    fn llama3_scaling_is_known_by_its_factors() {
        for name in ["llama3.1-8b", "llama3.2-1b"] {
            let config = preset(name).unwrap();
            let plain = rope::frequencies(config.rope_theta, config.head_dim, None);
            let scaled = rope::frequencies(config.rope_theta, config.head_dim, config.rope_scaling);
            let factors: Vec<f32> =
                plain.iter().zip(&scaled).map(|(p, s)| (p / s) as f32).collect();
            assert_eq!(llama3_of_factors(&factors, &config), config.rope_scaling, "{name}");
            let other: Vec<f32> = factors.iter().map(|f| f * f).collect();
            assert_eq!(llama3_of_factors(&other, &config), None, "{name}");
        }
    }
}
