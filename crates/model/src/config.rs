//! The shape of a LLaMA, its rules, and how many parameters it has, all without allocating one.

use serde::{Deserialize, Serialize};

use crate::ModelError;

/// The largest size of a dim or count: every product of three of them fits `u128`, of two `u64`.
const MAX_SIZE: usize = 1 << 31;

/// Parameters are listed by layer, so their number is kept within reason (the largest LLaMA has 126).
const MAX_LAYERS: usize = 1 << 16;

/// The rotary embedding keeps tables over all positions: 2 GiB at this length with heads of 128.
const MAX_POSITIONS: usize = 1 << 22;

/// Everything that defines a LLaMA's function, apart from its weights.
///
/// One form serves LLaMA 1, 2, 3, 3.1 and 3.2: grouped-query attention (`n_kv_heads < n_heads`), an explicit `head_dim`,
/// the base and scaling of the rotary embedding, and tied embeddings are fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LlamaConfig {
    /// Number of token ids.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Number of blocks.
    pub n_layers: usize,
    /// Query heads of a block.
    pub n_heads: usize,
    /// Key and value heads of a block; each serves `n_heads / n_kv_heads` query heads.
    pub n_kv_heads: usize,
    /// Width of a head; even, because the rotary embedding turns pairs.
    pub head_dim: usize,
    /// Inner width of the feed-forward.
    pub d_ff: usize,
    /// Base of the rotary embedding's frequencies.
    pub rope_theta: f64,
    /// How frequencies are stretched for long contexts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeScaling>,
    /// Added to the mean square inside every RMS norm.
    pub norm_eps: f64,
    /// Whether the output projection is the embedding itself.
    pub tie_embeddings: bool,
    /// Whether the four projections of attention have a bias.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub attention_bias: bool,
    /// Whether the three matrices of the feed-forward have a bias.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mlp_bias: bool,
    /// Of a classifier, the number of classes: the head gives their logits instead of those of tokens, and is not tied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_classes: Option<usize>,
    /// Classes are read from the mean of a document's final states up to a position, not from the state there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mean_pool: bool,
    /// Classes are read from a learned mix of the states after the lookup and after every block.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub layer_mix: bool,
    /// Number of positions that the model is made for; forward passes are refused beyond it.
    pub max_seq_len: usize,
    /// Standard deviation of initial weights.
    pub init_std: f64,
}

/// How the frequencies of the rotary embedding are changed for contexts longer than the model was first trained on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RopeScaling {
    /// Low frequencies alone, as LLaMA 3.1 and 3.2.
    Llama3(Llama3Scaling),
    /// All alike: positions are divided (Chen et al., "Extending Context Window of Large Language Models via Positional
    /// Interpolation", 2023).
    Linear(LinearScaling),
}

/// Positions divided by a number (`rope_type: linear`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinearScaling {
    /// Every frequency is divided by this.
    pub factor: f64,
}

/// Frequency scaling of LLaMA 3.1 and 3.2 (`rope_type: llama3`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Llama3Scaling {
    /// Low frequencies are divided by this.
    pub factor: f64,
    /// Wavelengths above `original_max_seq_len / low_freq_factor` are scaled in full.
    pub low_freq_factor: f64,
    /// Wavelengths below `original_max_seq_len / high_freq_factor` are left alone.
    pub high_freq_factor: f64,
    /// Context length before the scaling, in tokens.
    pub original_max_seq_len: usize,
}

/// The path and shape of one parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamInfo {
    /// Dotted module path, for example `blocks.0.wq.weight`.
    pub path: String,
    /// Its shape; linear weights are `[d_in, d_out]`.
    pub shape: Vec<usize>,
}

impl LlamaConfig {
    /// Width of what goes from segment to segment: the residual stream, and beside it the mix of layers where there is one.
    pub fn stream_width(&self) -> usize {
        self.d_model * (1 + usize::from(self.layer_mix))
    }

    /// Width of all query heads together.
    pub fn d_query(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn d_key(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Width of the head's output: classes, or tokens.
    pub fn n_outputs(&self) -> usize {
        self.n_classes.unwrap_or(self.vocab_size)
    }

    /// Whether the head's projection is the embedding.
    pub fn ties_output(&self) -> bool {
        self.tie_embeddings && self.n_classes.is_none()
    }

    /// Checks every rule.
    ///
    /// # Errors
    /// [`ModelError::Config`] names the first field that breaks a rule and says what to change.
    pub fn validate(&self) -> Result<(), ModelError> {
        self.check_sizes()?;
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return wrong(
                "n_heads",
                &self.n_heads,
                format!("must be a multiple of n_kv_heads = {}", self.n_kv_heads),
                format!(
                    "every key head serves equally many query heads: set n_kv_heads to a divisor of {}",
                    self.n_heads
                ),
            );
        }
        if !self.head_dim.is_multiple_of(2) {
            return wrong(
                "head_dim",
                &self.head_dim,
                "must be even".into(),
                format!(
                    "the rotary embedding turns pairs: use {} or {}",
                    self.head_dim - 1,
                    self.head_dim + 1
                ),
            );
        }
        self.check_numbers()
    }

    fn check_sizes(&self) -> Result<(), ModelError> {
        for (field, value, most) in [
            ("vocab_size", self.vocab_size, MAX_SIZE),
            ("d_model", self.d_model, MAX_SIZE),
            ("n_layers", self.n_layers, MAX_LAYERS),
            ("n_heads", self.n_heads, MAX_SIZE),
            ("n_kv_heads", self.n_kv_heads, MAX_SIZE),
            ("head_dim", self.head_dim, MAX_SIZE),
            ("d_ff", self.d_ff, MAX_SIZE),
            ("n_classes", self.n_classes.unwrap_or(1), MAX_SIZE),
            ("max_seq_len", self.max_seq_len, MAX_POSITIONS),
        ] {
            if value == 0 {
                let help = format!("set {field} to 1 or more");
                return wrong(field, &value, "must not be zero".into(), help);
            }
            if value > most {
                let help = format!("set {field} to {most} or less");
                return wrong(field, &value, format!("must be at most {most}"), help);
            }
        }
        // The number of parameters must be countable in bytes of f64 as well, with room to spare.
        if self.count() > u128::from(u64::MAX >> 4) {
            let help = "lower n_layers, d_model, d_ff or vocab_size".into();
            let found = format!("part of {} parameters", self.count());
            return wrong("d_model", &found, "no machine can address that many".into(), help);
        }
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), ModelError> {
        for (field, value, least) in [
            ("rope_theta", self.rope_theta, 1.0),
            ("norm_eps", self.norm_eps, 0.0),
            ("init_std", self.init_std, 0.0),
        ] {
            if !(value.is_finite() && value > least) {
                let help = match field {
                    "rope_theta" => "LLaMA 1 and 2 have 10000, LLaMA 3 has 500000",
                    "norm_eps" => "LLaMA 1 has 1e-6, later ones 1e-5",
                    _ => "0.02 is usual",
                };
                return wrong(field, &value, format!("must be above {least}"), help.into());
            }
        }
        let above_zero = |field, value: f64, help: &str| match value.is_finite() && value > 0.0 {
            true => Ok(()),
            false => wrong(field, &value, "must be above 0".into(), help.into()),
        };
        let scaling = match self.rope_scaling {
            None => return Ok(()),
            Some(RopeScaling::Linear(linear)) => {
                let help = "2 doubles the context that the model was trained on";
                return above_zero("rope_scaling.factor", linear.factor, help);
            }
            Some(RopeScaling::Llama3(scaling)) => scaling,
        };
        let help = "LLaMA 3.1 has factor 8, low_freq_factor 1, high_freq_factor 4";
        above_zero("rope_scaling.factor", scaling.factor, help)?;
        above_zero("rope_scaling.low_freq_factor", scaling.low_freq_factor, help)?;
        if !(scaling.high_freq_factor.is_finite()
            && scaling.high_freq_factor > scaling.low_freq_factor)
        {
            return wrong(
                "rope_scaling.high_freq_factor",
                &scaling.high_freq_factor,
                format!("must be above low_freq_factor = {}", scaling.low_freq_factor),
                "LLaMA 3.1 has low_freq_factor 1 and high_freq_factor 4".into(),
            );
        }
        if scaling.original_max_seq_len == 0 || scaling.original_max_seq_len > MAX_SIZE {
            return wrong(
                "rope_scaling.original_max_seq_len",
                &scaling.original_max_seq_len,
                format!("must be between 1 and {MAX_SIZE}"),
                "LLaMA 3.1 has 8192".into(),
            );
        }
        Ok(())
    }

    /// Number of parameters; those of a tied embedding count once.
    ///
    /// Saturates at `u64::MAX` for sizes that [`validate`](Self::validate) refuses.
    pub fn param_count(&self) -> u64 {
        u64::try_from(self.count()).unwrap_or(u64::MAX)
    }

    fn count(&self) -> u128 {
        self.parts().into_iter().fold(0, |sum, (_, n)| sum.saturating_add(n))
    }

    /// Number of parameters by part: `embedding`, `attention`, `feed-forward`, `norms`, `output` (0 when tied).
    pub fn param_breakdown(&self) -> Vec<(&'static str, u64)> {
        let narrow = |(name, n)| (name, u64::try_from(n).unwrap_or(u64::MAX));
        self.parts().into_iter().map(narrow).collect()
    }

    fn parts(&self) -> [(&'static str, u128); 5] {
        let product = |factors: &[usize]| {
            factors.iter().fold(1u128, |product, &f| product.saturating_mul(f as u128))
        };
        let (d, layers) = (self.d_model, self.n_layers);
        let per_query = product(&[layers, d, self.n_heads, self.head_dim]);
        let per_key = product(&[layers, d, self.n_kv_heads, self.head_dim]);
        let matrix = product(&[self.vocab_size, d]);
        let biases = |has: bool, widths: &[u128]| match has {
            true => {
                widths.iter().fold(0u128, |n, w| n.saturating_add(w.saturating_mul(layers as u128)))
            }
            false => 0,
        };
        let wide = |n: usize| n as u128;
        let (query, key) =
            (product(&[self.n_heads, self.head_dim]), product(&[self.n_kv_heads, self.head_dim]));
        let attention_bias = biases(self.attention_bias, &[query, key, key, wide(d)]);
        let mlp_bias = biases(self.mlp_bias, &[wide(self.d_ff), wide(self.d_ff), wide(d)]);
        [
            ("embedding", matrix),
            (
                "attention",
                per_query.saturating_add(per_key).saturating_mul(2).saturating_add(attention_bias),
            ),
            ("feed-forward", product(&[3, layers, d, self.d_ff]).saturating_add(mlp_bias)),
            ("norms", product(&[2, layers, d]).saturating_add(d as u128)),
            ("output", if self.ties_output() { 0 } else { product(&[self.n_outputs(), d]) }),
        ]
    }

    /// Path and shape of every parameter in the model's visit order, without a model.
    pub fn parameters(&self) -> Vec<ParamInfo> {
        let (d, q, k, ff) = (self.d_model, self.d_query(), self.d_key(), self.d_ff);
        let mut infos = Vec::with_capacity(9 * self.n_layers + 3);
        let mut add = |path: String, shape: &[usize]| {
            infos.push(ParamInfo { path, shape: shape.to_vec() });
        };
        add("embed.weight".into(), &[self.vocab_size, d]);
        for layer in 0..self.n_layers {
            let shapes: [(&str, &[usize]); 9] = [
                ("attention_norm", &[d]),
                ("wq", &[d, q]),
                ("wk", &[d, k]),
                ("wv", &[d, k]),
                ("wo", &[q, d]),
                ("ffn_norm", &[d]),
                ("w_gate", &[d, ff]),
                ("w_up", &[d, ff]),
                ("w_down", &[ff, d]),
            ];
            for (name, shape) in shapes {
                add(format!("blocks.{layer}.{name}.weight"), shape);
                let has_bias = match name {
                    "wq" | "wk" | "wv" | "wo" => self.attention_bias,
                    "w_gate" | "w_up" | "w_down" => self.mlp_bias,
                    _ => false,
                };
                if has_bias {
                    add(format!("blocks.{layer}.{name}.bias"), &shape[1..]);
                }
            }
        }
        add("head.norm.weight".into(), &[d]);
        if !self.ties_output() {
            add("head.output.weight".into(), &[d, self.n_outputs()]);
        }
        infos
    }
}

fn wrong(
    field: &'static str,
    found: &dyn std::fmt::Display,
    expected: String,
    help: String,
) -> Result<(), ModelError> {
    Err(ModelError::Config { field, found: found.to_string(), expected, help })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preset;

    fn refused(change: impl FnOnce(&mut LlamaConfig)) -> String {
        let mut config = preset("tiny").unwrap();
        change(&mut config);
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn every_rule_names_its_field_and_says_what_to_change() {
        let scaling = Llama3Scaling {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_seq_len: 8192,
        };
        let cases: Vec<(String, &str, &str)> = vec![
            (refused(|c| c.n_layers = 0), "n_layers is 0", "set n_layers to 1"),
            (refused(|c| c.vocab_size = usize::MAX), "vocab_size is", "or less"),
            (refused(|c| c.n_layers = 1 << 20), "n_layers is 1048576", "65536 or less"),
            (refused(|c| c.max_seq_len = 1 << 30), "max_seq_len is", "4194304 or less"),
            (refused(|c| c.n_kv_heads = 3), "n_heads is 4", "divisor of 4"),
            (refused(|c| c.head_dim = 15), "head_dim is 15", "use 14 or 16"),
            (refused(|c| c.rope_theta = f64::NAN), "rope_theta is NaN", "500000"),
            (refused(|c| c.norm_eps = 0.0), "norm_eps is 0", "1e-5"),
            (refused(|c| c.init_std = -1.0), "init_std is -1", "0.02"),
            (
                refused(|c| {
                    (c.d_model, c.d_ff, c.n_layers) = (1 << 31, 1 << 31, 1 << 16);
                }),
                "no machine",
                "lower n_layers",
            ),
            (
                refused(|c| {
                    c.rope_scaling = Some(RopeScaling::Llama3(Llama3Scaling {
                        high_freq_factor: 1.0,
                        ..scaling
                    }))
                }),
                "high_freq_factor is 1",
                "LLaMA 3.1",
            ),
            (
                refused(|c| {
                    c.rope_scaling =
                        Some(RopeScaling::Llama3(Llama3Scaling { factor: 0.0, ..scaling }))
                }),
                "factor is 0",
                "LLaMA 3.1",
            ),
            (
                refused(|c| {
                    c.rope_scaling = Some(RopeScaling::Llama3(Llama3Scaling {
                        original_max_seq_len: 0,
                        ..scaling
                    }));
                }),
                "original_max_seq_len is 0",
                "8192",
            ),
        ];
        for (message, what, help) in cases {
            assert!(message.contains(what), "{message}");
            assert!(message.rsplit_once("\nhelp: ").unwrap().1.contains(help), "{message}");
        }
    }

    #[test]
    fn the_count_is_the_sum_of_the_parameters_and_of_the_parts() {
        for name in ["tiny", "3m", "8m", "llama3.2-1b", "llama3-8b"] {
            for biases in [[false, false], [true, false], [true, true]] {
                let [attention_bias, mlp_bias] = biases;
                let config = LlamaConfig { attention_bias, mlp_bias, ..preset(name).unwrap() };
                let listed: u64 = config
                    .parameters()
                    .iter()
                    .map(|p| p.shape.iter().product::<usize>() as u64)
                    .sum();
                assert_eq!(config.param_count(), listed, "{name}");
                let parts: u64 = config.param_breakdown().iter().map(|(_, n)| n).sum();
                assert_eq!(config.param_count(), parts, "{name}");
            }
        }
    }

    #[test]
    fn serde_round_trips_and_refuses_unknown_fields() {
        for name in ["tiny", "llama3.1-8b"] {
            let config = preset(name).unwrap();
            let json = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<LlamaConfig>(&json).unwrap(), config);
            let json = json.replacen('{', "{\"n_experts\": 8, ", 1);
            assert!(serde_json::from_str::<LlamaConfig>(&json).is_err());
        }
    }
}
