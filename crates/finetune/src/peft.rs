//! Adapters in the form of Hugging Face's PEFT, out and in.
//!
//! | file | holds |
//! |---|---|
//! | `adapter_config.json` | rank, alpha, targets, the base model's name |
//! | `adapter_model.safetensors` | `base_model.model.model.layers.N.self_attn.q_proj.lora_A.weight` `[r, d_in]`, `lora_B` `[d_out, r]` |
//!
//! # Reference
//! `peft/utils/save_and_load.py` and `docs/source/developer_guides/checkpoint.md` of huggingface/peft.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{DType, Tensor, TensorData};
use caravan_model::{Llama, LoraConfig};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::{Value, json};

use crate::error::{FinetuneError, Result, io};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// Our names and theirs.
const NAMES: [(&str, &str, &str); 7] = [
    ("wq", "self_attn", "q_proj"),
    ("wk", "self_attn", "k_proj"),
    ("wv", "self_attn", "v_proj"),
    ("wo", "self_attn", "o_proj"),
    ("w_gate", "mlp", "gate_proj"),
    ("w_up", "mlp", "up_proj"),
    ("w_down", "mlp", "down_proj"),
];

/// Their name of the adapter matrix at `path`, such as `blocks.0.wq.lora.a`.
fn theirs(path: &str) -> Option<String> {
    let (stem, which) = path.split_once(".lora.")?;
    let (layer, part) = stem.strip_prefix("blocks.")?.split_once('.')?;
    let (_, room, name) = NAMES.iter().find(|(ours, _, _)| *ours == part)?;
    let which = which.to_uppercase();
    Some(format!("base_model.model.model.layers.{layer}.{room}.{name}.lora_{which}.weight"))
}

fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let at = |i: usize| values[i % rows * columns + i / rows];
    (0..rows * columns).map(at).collect()
}

/// Writes a model's adapters; `base` names the model that they belong to.
///
/// # Errors
/// The model has no adapters, or the folder cannot be written to.
pub fn save_peft(model: &Llama, lora: &LoraConfig, base: &str, dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(io("create", dir))?;
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
    model.flat(&mut |path, shape, values| {
        if let (Some(name), [rows, columns]) = (theirs(path), shape) {
            let values: Vec<f32> =
                values.into_data().convert::<f32>().try_into_vec().expect("just converted to f32");
            let values = transposed(&values, *rows, *columns);
            let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            tensors.insert(name, (vec![*columns, *rows], bytes));
        }
    });
    if tensors.is_empty() {
        return Err(FinetuneError::File {
            path: dir.to_owned(),
            problem: "the model has no adapters to write".to_owned(),
            help: "train with method=lora".to_owned(),
        });
    }
    let views: Vec<(&String, TensorView<'_>)> = tensors
        .iter()
        .map(|(name, (shape, bytes))| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
            (name, view.expect("as many bytes as the shape has"))
        })
        .collect();
    let path = dir.join(WEIGHTS);
    let metadata = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let failed = |e: safetensors::SafeTensorError| std::io::Error::other(e);
    serialize_to_file(views, Some(metadata), &path).map_err(failed).map_err(io("write", &path))?;
    let targets: Vec<&str> = NAMES
        .iter()
        .filter(|(ours, _, _)| lora.targets.iter().any(|target| target == ours))
        .map(|(_, _, name)| *name)
        .collect();
    let config = json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base,
        "r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": 0.0, "bias": "none",
        "target_modules": targets, "fan_in_fan_out": false, "inference_mode": true,
        "init_lora_weights": true, "modules_to_save": null, "use_rslora": false, "use_dora": false,
    });
    let path = dir.join(CONFIG);
    std::fs::write(&path, format!("{config:#}\n")).map_err(io("write", &path))
}

/// The model with the adapters of a PEFT folder beside its weights.
///
/// # Errors
/// The folder is no LoRA adapter of PEFT's, uses what is not built (DoRA, rsLoRA, biases), or does not fit the model.
pub fn load_peft(model: Llama, dir: &Path) -> Result<(Llama, LoraConfig)> {
    let path = dir.join(CONFIG);
    let text = std::fs::read_to_string(&path).map_err(io("read", &path))?;
    let file = |path: &Path, problem: String| FinetuneError::File {
        path: path.to_owned(),
        problem,
        help: "only plain LoRA adapters of LLaMA's linear layers are read".to_owned(),
    };
    let config: Value = serde_json::from_str(&text).map_err(|e| file(&path, e.to_string()))?;
    for (key, plain) in [
        ("peft_type", json!("LORA")),
        ("use_dora", json!(false)),
        ("use_rslora", json!(false)),
        ("bias", json!("none")),
    ] {
        let found = config.get(key).filter(|value| !value.is_null());
        if let Some(found) = found.filter(|value| **value != plain) {
            return Err(file(&path, format!("`{key}` is {found}, expected {plain}")));
        }
    }
    let rank = config["r"].as_u64().and_then(|r| usize::try_from(r).ok());
    let rank = rank.ok_or_else(|| file(&path, "`r` is no whole number".to_owned()))?;
    let alpha = config["lora_alpha"].as_f64();
    let alpha = alpha.ok_or_else(|| file(&path, "`lora_alpha` is no number".to_owned()))?;

    let path = dir.join(WEIGHTS);
    let bytes = std::fs::read(&path).map_err(io("read", &path))?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| file(&path, e.to_string()))?;
    let targets: Vec<String> = NAMES
        .iter()
        .filter(|(_, _, name)| {
            tensors.names().iter().any(|t| t.contains(&format!(".{name}.lora_A")))
        })
        .map(|(ours, _, _)| (*ours).to_owned())
        .collect();
    let lora = LoraConfig { rank, alpha, targets };
    let model = model.with_lora(&lora, 0)?;
    let (mut failed, mut used) = (None, 0);
    let model = model.map_flat(&mut |ours, shape, old| {
        let (Some(name), [rows, columns]) = (theirs(ours), shape) else { return old };
        match tensors.tensor(&name) {
            Ok(view) if view.shape() == [*columns, *rows] && view.dtype() == Dtype::F32 => {
                let value = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                let values: Vec<f32> = view.data().chunks_exact(4).map(value).collect();
                let values = transposed(&values, *columns, *rows);
                used += 1;
                let n = values.len();
                Tensor::from_data(TensorData::new(values, [n]), (&old.device(), DType::F32))
            }
            Ok(view) => {
                let (found, dtype) = (view.shape().to_vec(), view.dtype());
                failed.get_or_insert(format!(
                    "`{name}` is {dtype:?} {found:?}, expected F32 [{columns}, {rows}]"
                ));
                old
            }
            Err(_) => {
                failed.get_or_insert(format!("`{name}` is missing"));
                old
            }
        }
    });
    if failed.is_none() && used < tensors.len() {
        failed = Some(format!(
            "{} of {} tensors have no place in this model",
            tensors.len() - used,
            tensors.len()
        ));
    }
    match failed {
        None => Ok((model, lora)),
        Some(problem) => Err(file(&path, problem)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_theirs() {
        assert_eq!(
            theirs("blocks.3.w_down.lora.b").unwrap(),
            "base_model.model.model.layers.3.mlp.down_proj.lora_B.weight"
        );
        assert_eq!(theirs("blocks.3.w_down.weight"), None);
    }
}
