//! `config.json` to and from [`LlamaConfig`].
//!
//! The rotary embedding is written in two forms: transformers 4 has `rope_theta` and `rope_scaling` at the top, transformers
//! 5 one object `rope_parameters`. Both are read; both are written, so that either version reads ours.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::WeightDtype;
use crate::{LinearScaling, Llama3Scaling, LlamaConfig, ModelError, RopeScaling};

/// Ids of the tokens that begin and end a document, as far as a model has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpecialIds {
    /// Beginning of sequence.
    pub bos: Option<u32>,
    /// End of sequence; the first where a file lists several.
    pub eos: Option<u32>,
}

/// What `config.json` says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Read {
    pub(super) config: LlamaConfig,
    pub(super) special: SpecialIds,
    /// What was understood but has no effect here.
    pub(super) notes: Vec<String>,
}

/// Architectures whose function is that of [`LlamaConfig`], by `model_type`; Mistral as long as no window cuts its context.
const MODEL_TYPES: [&str; 2] = ["llama", "mistral"];

/// Understands the text of a `config.json`; `path` is for messages.
pub(super) fn parse(text: &str, path: &Path) -> Result<Read, ModelError> {
    let top: Map<String, Value> = serde_json::from_str(text)
        .map_err(|source| ModelError::Json { path: path.to_owned(), source })?;
    let keys = Keys { path, prefix: "", map: &top };
    let notes = refuse_unsupported(&keys)?;
    let heads = keys.size("num_attention_heads")?;
    let width = keys.size("hidden_size")?;
    let head_dim = match keys.optional_size("head_dim")? {
        Some(head_dim) => head_dim,
        None if heads > 0 && width.is_multiple_of(heads) => width / heads,
        None => {
            return Err(keys.wrong(
                "hidden_size",
                &format!("a multiple of num_attention_heads = {heads} where head_dim is absent"),
                "add head_dim to config.json",
            ));
        }
    };
    let max_seq_len = keys.optional_size("max_position_embeddings")?.unwrap_or(2048);
    let notes = [notes, window(&keys, max_seq_len)?].concat();
    let (rope_theta, rope_scaling) = rope(&keys, max_seq_len)?;
    let config = LlamaConfig {
        vocab_size: keys.size("vocab_size")?,
        d_model: width,
        n_layers: keys.size("num_hidden_layers")?,
        n_heads: heads,
        n_kv_heads: keys.optional_size("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        d_ff: keys.size("intermediate_size")?,
        rope_theta,
        rope_scaling,
        norm_eps: keys.optional_number("rms_norm_eps")?.unwrap_or(1e-6),
        tie_embeddings: keys.flag("tie_word_embeddings")?,
        attention_bias: keys.flag("attention_bias")?,
        mlp_bias: keys.flag("mlp_bias")?,
        n_classes: None,
        mean_pool: false,
        layer_mix: false,
        max_seq_len,
        init_std: keys.optional_number("initializer_range")?.filter(|s| *s > 0.0).unwrap_or(0.02),
    };
    config.validate()?;
    let special = SpecialIds { bos: keys.id("bos_token_id")?, eos: keys.id("eos_token_id")? };
    Ok(Read { config, special, notes })
}

/// The keys whose only values we support are the ones that plain LLaMA has.
fn refuse_unsupported(keys: &Keys<'_>) -> Result<Vec<String>, ModelError> {
    const ONLY_LLAMA: &str =
        "only LLaMA and what computes the same is read: no other activation, no quantization";
    let is_known = |v: &Value| MODEL_TYPES.iter().any(|known| v == known);
    if !keys.get("model_type").is_some_and(is_known) {
        return Err(keys.wrong("model_type", "\"llama\" or \"mistral\"", ONLY_LLAMA));
    }
    if keys.get("hidden_act").is_some_and(|v| v != "silu") {
        return Err(keys.wrong("hidden_act", "\"silu\"", ONLY_LLAMA));
    }
    for key in ["quantization_config", "compression_config"] {
        if keys.get(key).is_some() {
            let help = "take the unquantized weights of this model: F32, BF16 or F16";
            return Err(keys.wrong(key, "absent", help));
        }
    }
    let mut notes = Vec::new();
    if keys.optional_number("attention_dropout")?.is_some_and(|p| p != 0.0) {
        notes.push("config.json asks for attention dropout, which this model does not have".into());
    }
    Ok(notes)
}

/// A sliding window that is as long as the context cuts nothing off.
fn window(keys: &Keys<'_>, max_seq_len: usize) -> Result<Vec<String>, ModelError> {
    let Some(window) = keys.optional_size("sliding_window")? else { return Ok(Vec::new()) };
    if keys.get("use_sliding_window") == Some(&json!(false)) {
        return Ok(Vec::new());
    }
    if window < max_seq_len {
        let help = format!(
            "attention over a window is not built; up to {window} positions the model is the same without one: set \"sliding_window\": null and \"max_position_embeddings\": {window}"
        );
        return Err(keys.wrong("sliding_window", &format!("null or {max_seq_len} or more"), &help));
    }
    Ok(vec![format!(
        "the sliding window of {window} positions holds the whole context and was left out"
    )])
}

/// Base and scaling of the rotary embedding from either form.
fn rope(keys: &Keys<'_>, max_seq_len: usize) -> Result<(f64, Option<RopeScaling>), ModelError> {
    let top_theta = keys.optional_number("rope_theta")?;
    // Where both are given, transformers 5 prefers `rope_scaling` too; the two agree in every file that one version wrote.
    let place = ["rope_scaling", "rope_parameters"].into_iter().find(|key| keys.get(key).is_some());
    let Some(place) = place else { return Ok((top_theta.unwrap_or(10000.0), None)) };
    let Some(Value::Object(map)) = keys.get(place) else {
        return Err(keys.wrong(place, "an object or null", "write the settings as an object"));
    };
    let inner = Keys { path: keys.path, prefix: place, map };
    let inner_theta = inner.optional_number("rope_theta")?;
    let other_theta = match (place, keys.get("rope_parameters")) {
        ("rope_scaling", Some(Value::Object(map))) => {
            Keys { path: keys.path, prefix: "rope_parameters", map }
                .optional_number("rope_theta")?
        }
        _ => None,
    };
    let mut thetas = [inner_theta, other_theta, top_theta].into_iter().flatten();
    let theta = thetas.next().unwrap_or(10000.0);
    if let Some(other) = thetas.find(|other| *other != theta) {
        let help = "keep the one that the model was trained with";
        return Err(keys.wrong_value("rope_theta", &other, &format!("{theta} as elsewhere"), help));
    }
    if inner.optional_number("partial_rotary_factor")?.is_some_and(|f| f != 1.0) {
        return Err(inner.wrong("partial_rotary_factor", "1", "only plain LLaMA is read"));
    }
    let kind_key = if inner.get("rope_type").is_some() { "rope_type" } else { "type" };
    match inner.get(kind_key).map(|v| v.as_str().unwrap_or("?")) {
        None | Some("default") => Ok((theta, None)),
        Some("llama3") => {
            let original = inner.optional_size("original_max_position_embeddings")?;
            let scaling = Llama3Scaling {
                factor: inner.number("factor")?,
                low_freq_factor: inner.number("low_freq_factor")?,
                high_freq_factor: inner.number("high_freq_factor")?,
                original_max_seq_len: original.unwrap_or(max_seq_len),
            };
            Ok((theta, Some(RopeScaling::Llama3(scaling))))
        }
        Some("linear") => {
            let factor = inner.number("factor")?;
            Ok((theta, Some(RopeScaling::Linear(LinearScaling { factor }))))
        }
        Some(_) => Err(inner.wrong(
            kind_key,
            "\"default\", \"linear\" or \"llama3\"",
            "models with other scalings (dynamic, yarn, longrope, ...) are not read",
        )),
    }
}

/// Typed access to a JSON object, with errors that name file and key.
struct Keys<'a> {
    path: &'a Path,
    prefix: &'a str,
    map: &'a Map<String, Value>,
}

impl Keys<'_> {
    /// The value, if there is one that is not null.
    fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn wrong(&self, key: &str, expected: &str, help: &str) -> ModelError {
        let found = self.map.get(key).map_or("absent".to_owned(), shortened);
        self.wrong_value(key, &found, expected, help)
    }

    fn wrong_value(
        &self,
        key: &str,
        found: &dyn std::fmt::Display,
        expected: &str,
        help: &str,
    ) -> ModelError {
        let dot = if self.prefix.is_empty() { "" } else { "." };
        ModelError::Key {
            path: self.path.to_owned(),
            key: format!("{}{dot}{key}", self.prefix),
            found: found.to_string(),
            expected: expected.to_owned(),
            help: help.to_owned(),
        }
    }

    fn optional_size(&self, key: &str) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let size = value.as_u64().and_then(|n| usize::try_from(n).ok());
        size.map(Some).ok_or_else(|| self.wrong(key, "a whole number", "correct config.json"))
    }

    fn size(&self, key: &str) -> Result<usize, ModelError> {
        self.optional_size(key)?
            .ok_or_else(|| self.wrong(key, "a whole number", "add it to config.json"))
    }

    fn optional_number(&self, key: &str) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| self.wrong(key, "a number", "correct config.json"))
    }

    fn number(&self, key: &str) -> Result<f64, ModelError> {
        self.optional_number(key)?
            .ok_or_else(|| self.wrong(key, "a number", "add it to config.json"))
    }

    /// Absent is false.
    fn flag(&self, key: &str) -> Result<bool, ModelError> {
        let Some(value) = self.get(key) else { return Ok(false) };
        value.as_bool().ok_or_else(|| self.wrong(key, "true or false", "correct config.json"))
    }

    /// An id, or the first of a list of ids.
    fn id(&self, key: &str) -> Result<Option<u32>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let first = value.as_array().map_or(Some(value), |ids| ids.first());
        // Some files say -1 for "none".
        if first.is_none() || first.and_then(Value::as_i64) == Some(-1) {
            return Ok(None);
        }
        let id = first.and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
        id.map(Some).ok_or_else(|| {
            self.wrong(key, "a token id, a list of them or null", "correct config.json")
        })
    }
}

/// A value as JSON, cut where it is long.
fn shortened(value: &Value) -> String {
    const LONGEST: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("{}...", &text[..cut]),
        None => text,
    }
}

/// `config.json` for a model.
pub(super) fn write(config: &LlamaConfig, dtype: WeightDtype, special: &SpecialIds) -> Value {
    let (rope_scaling, rope_parameters) = match config.rope_scaling {
        None => {
            let parameters = json!({ "rope_theta": config.rope_theta, "rope_type": "default" });
            (Value::Null, parameters)
        }
        Some(RopeScaling::Linear(LinearScaling { factor })) => (
            json!({ "factor": factor, "rope_type": "linear", "type": "linear" }),
            json!({ "factor": factor, "rope_type": "linear", "rope_theta": config.rope_theta }),
        ),
        Some(RopeScaling::Llama3(scaling)) => {
            let old = json!({
                "factor": scaling.factor,
                "high_freq_factor": scaling.high_freq_factor,
                "low_freq_factor": scaling.low_freq_factor,
                "original_max_position_embeddings": scaling.original_max_seq_len,
                "rope_type": "llama3",
            });
            let mut new = old.clone();
            new["rope_theta"] = json!(config.rope_theta);
            (old, new)
        }
    };
    json!({
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": config.attention_bias,
        "attention_dropout": 0.0,
        "bos_token_id": special.bos,
        "dtype": dtype.torch_name(),
        "eos_token_id": special.eos,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.d_model,
        "initializer_range": config.init_std,
        "intermediate_size": config.d_ff,
        "max_position_embeddings": config.max_seq_len,
        "mlp_bias": config.mlp_bias,
        "model_type": "llama",
        "num_attention_heads": config.n_heads,
        "num_hidden_layers": config.n_layers,
        "num_key_value_heads": config.n_kv_heads,
        "pretraining_tp": 1,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": rope_parameters,
        "rope_scaling": rope_scaling,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tie_embeddings,
        "torch_dtype": dtype.torch_name(),
        "use_cache": true,
        "vocab_size": config.vocab_size,
    })
}

#[cfg(test)]
mod tests;
