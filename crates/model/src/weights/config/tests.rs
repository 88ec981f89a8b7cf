//! Both forms of `config.json`, and every refusal.

use super::*;
use crate::preset;

/// LLaMA 3.2 1B as transformers 4 writes it, without the keys that have no effect.
const OLD: &str = r#"{
  "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
  "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "head_dim": 64, "hidden_act": "silu",
  "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 8192,
  "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "llama",
  "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8, "pretraining_tp": 1,
  "rms_norm_eps": 1e-05,
  "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                   "original_max_position_embeddings": 8192, "rope_type": "llama3"},
  "rope_theta": 500000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16", "vocab_size": 128256
}"#;

fn read(text: &str) -> Result<Read, ModelError> {
    parse(text, Path::new("m/config.json"))
}

/// The old form with keys replaced; null removes.
fn changed(changes: &[(&str, Value)]) -> String {
    let mut map: Map<String, Value> = serde_json::from_str(OLD).unwrap();
    for (key, value) in changes {
        map.insert((*key).to_owned(), value.clone());
    }
    serde_json::to_string(&map).unwrap()
}

#[test]
fn the_old_form_is_the_preset() {
    let found = read(OLD).unwrap();
    assert_eq!(found.config, preset("llama3.2-1b").unwrap());
    assert_eq!(found.special, SpecialIds { bos: Some(128000), eos: Some(128001) });
    assert!(found.notes.is_empty());
}

#[test]
fn the_new_form_reads_the_same() {
    let new = json!({"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192, "rope_type": "llama3", "rope_theta": 500000.0});
    let text = changed(&[
        ("rope_scaling", Value::Null),
        ("rope_theta", Value::Null),
        ("rope_parameters", new),
    ]);
    assert_eq!(read(&text).unwrap().config, preset("llama3.2-1b").unwrap());
}

#[test]
fn llama_1_leaves_much_to_defaults() {
    let text = r#"{"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008,
        "num_attention_heads": 32, "num_hidden_layers": 32, "rms_norm_eps": 1e-06,
        "max_position_embeddings": 2048, "vocab_size": 32000, "bos_token_id": -1}"#;
    let found = read(text).unwrap();
    assert_eq!(found.config, preset("llama1-7b").unwrap());
    assert_eq!(found.special, SpecialIds::default());
}

#[test]
fn dropout_is_noted() {
    let found = read(&changed(&[("attention_dropout", json!(0.1))])).unwrap();
    assert!(found.notes[0].contains("dropout"));
}

#[test]
fn what_is_not_plain_llama_is_refused_by_key() {
    let scaling = |kind: &str| json!({"rope_type": kind, "factor": 2.0});
    let cases = [
        ("model_type", json!("qwen2")),
        ("hidden_act", json!("gelu")),
        ("attention_bias", json!("yes")),
        ("sliding_window", json!(4096)),
        ("quantization_config", json!({"bits": 4})),
        ("rope_scaling", scaling("yarn")),
        ("rope_scaling", json!({"type": "dynamic", "factor": 2.0})),
        ("rope_scaling", json!("yes")),
        ("rope_scaling", scaling("llama3")),
        ("rope_scaling", json!({"rope_type": "default", "partial_rotary_factor": 0.5})),
        ("rope_parameters", json!({"rope_type": "llama3", "rope_theta": 10000.0})),
        ("vocab_size", json!("many")),
        ("hidden_size", Value::Null),
        ("tie_word_embeddings", json!(1)),
        ("eos_token_id", json!("</s>")),
    ];
    for (key, value) in cases {
        let message = read(&changed(&[(key, value)])).unwrap_err().to_string();
        let named = if key == "rope_parameters" { "rope_theta" } else { key };
        assert!(message.starts_with("`m/config.json`: `"), "{message}");
        assert!(message.contains(named) && message.contains("\nhelp: "), "{message}");
    }
    assert!(read("{").unwrap_err().to_string().contains("must be JSON"));
}

#[test]
fn indivisible_width_needs_head_dim() {
    let text = changed(&[("head_dim", Value::Null), ("hidden_size", json!(2050))]);
    assert!(read(&text).unwrap_err().to_string().contains("add head_dim"));
}

#[test]
fn what_is_written_reads_back() {
    for name in crate::PRESETS {
        let config = preset(name).unwrap();
        let special = SpecialIds { bos: Some(1), eos: None };
        let text = write(&config, WeightDtype::Bf16, &special).to_string();
        let found = read(&text).unwrap();
        assert_eq!((found.config, found.special), (config, special), "{name}");
    }
}

#[test]
fn relatives_that_compute_the_same_are_read() {
    let found = read(&changed(&[
        ("model_type", json!("mistral")),
        ("attention_bias", json!(true)),
        ("mlp_bias", json!(true)),
        ("sliding_window", json!(131_072)),
        ("rope_scaling", json!({"type": "linear", "factor": 2.0})),
    ]));
    let found = found.unwrap();
    assert!(found.config.attention_bias && found.config.mlp_bias);
    let scaling = RopeScaling::Linear(LinearScaling { factor: 2.0 });
    assert_eq!(found.config.rope_scaling, Some(scaling));
    assert!(
        found.notes[0].contains("131072 positions holds the whole context"),
        "{:?}",
        found.notes
    );
    let written = write(&found.config, WeightDtype::F32, &found.special).to_string();
    assert_eq!(read(&written).unwrap().config, found.config);
}

#[test]
fn a_window_that_cuts_the_context_says_how_to_go_on() {
    let message = read(&changed(&[("sliding_window", json!(4096))])).unwrap_err().to_string();
    assert!(message.contains("\"max_position_embeddings\": 4096"), "{message}");
}
