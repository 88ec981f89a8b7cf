//! Hugging Face's tensor names for our parameter paths.

/// How a parameter is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    /// The tensor's name.
    pub(super) name: String,
    /// Its shape in the file.
    pub(super) shape: Vec<usize>,
    /// Whether the file holds the transpose: PyTorch's linear weights are `[d_out, d_in]`.
    pub(super) transposed: bool,
}

/// Where the parameter at `path`, of our `shape`, is stored.
///
/// # Panics
/// If the path is none of a LLaMA's.
pub(super) fn stored(path: &str, shape: &[usize]) -> Stored {
    let (stem, kind) = path.rsplit_once('.').expect("a parameter of a layer");
    let name = match stem.split('.').collect::<Vec<_>>()[..] {
        ["embed"] => EMBEDDING.to_owned(),
        ["head", "norm"] => "model.norm.weight".to_owned(),
        ["head", "output"] => OUTPUT.to_owned(),
        ["blocks", layer, part] => format!("model.layers.{layer}.{}.{kind}", inside_block(part)),
        _ => panic!("{path} is no parameter of a LLaMA"),
    };
    let transposed = stem != "embed" && shape.len() == 2;
    let mut shape = shape.to_vec();
    if transposed {
        shape.reverse();
    }
    Stored { name, shape, transposed }
}

/// The embedding.
pub(super) const EMBEDDING: &str = "model.embed_tokens.weight";
/// The output projection; some tied models store it once more under this name.
pub(super) const OUTPUT: &str = "lm_head.weight";

fn inside_block(part: &str) -> &'static str {
    match part {
        "attention_norm" => "input_layernorm",
        "wq" => "self_attn.q_proj",
        "wk" => "self_attn.k_proj",
        "wv" => "self_attn.v_proj",
        "wo" => "self_attn.o_proj",
        "ffn_norm" => "post_attention_layernorm",
        "w_gate" => "mlp.gate_proj",
        "w_up" => "mlp.up_proj",
        "w_down" => "mlp.down_proj",
        _ => panic!("{part} is no part of a block"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_weights_are_transposed_and_the_embedding_is_not() {
        let q = stored("blocks.3.wq.weight", &[64, 48]);
        assert_eq!(q.name, "model.layers.3.self_attn.q_proj.weight");
        assert!(q.transposed && q.shape == [48, 64]);
        let embedding = stored("embed.weight", &[512, 64]);
        assert!(!embedding.transposed && embedding.shape == [512, 64]);
        assert!(!stored("head.norm.weight", &[64]).transposed);
        let bias = stored("blocks.0.w_down.bias", &[64]);
        assert_eq!(bias.name, "model.layers.0.mlp.down_proj.bias");
        assert!(!bias.transposed && bias.shape == [64]);
    }
}
