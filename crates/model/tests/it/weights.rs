//! Model directories: out and in again, shards, formats, damage.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use caravan_model::{
    Kernels, Llama, LoadReport, ModelError, SpecialIds, WeightDtype, load_hf, save_hf,
    save_hf_sharded,
};
use half::{bf16, f16};
use serde_json::{Value, json};

use crate::support::{flex, parameters, tiny, wide};

const NONE: SpecialIds = SpecialIds { bos: None, eos: None };

fn load(dir: &Path) -> Result<(Llama, LoadReport), ModelError> {
    load_hf(dir, Kernels::Fused, &flex())
}

/// The message of a refusal, which must end in a line of help.
fn refusal(dir: &Path) -> String {
    let message = load(dir).expect_err("must be refused").to_string();
    assert!(message.lines().last().unwrap().starts_with("help: "), "{message}");
    message
}

fn saved(model: &Llama) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    save_hf(model, dir.path(), WeightDtype::F32, &NONE).unwrap();
    dir
}

fn files(dir: &Path) -> BTreeSet<String> {
    dir.read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

/// Rewrites a safetensors file tensor by tensor: `(name, dtype, shape, bytes)`.
type Entry = (String, safetensors::Dtype, Vec<usize>, Vec<u8>);
fn rewrite(path: &Path, change: impl FnOnce(&mut Vec<Entry>)) {
    let bytes = fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut entries: Vec<Entry> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| (name, view.dtype(), view.shape().to_vec(), view.data().to_vec()))
        .collect();
    change(&mut entries);
    let views = entries.iter().map(|(name, dtype, shape, bytes)| {
        (name, safetensors::tensor::TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn out_and_in_again_keeps_every_bit() {
    for model in [tiny(Kernels::Fused, &flex()), wide(&flex())] {
        let dir = saved(&model);
        let names = ["config.json", "generation_config.json", "model.safetensors"];
        assert_eq!(files(dir.path()), names.map(str::to_owned).into());
        let (again, report) = load(dir.path()).unwrap();
        assert!(parameters(&model) == parameters(&again));
        assert_eq!(model.config(), again.config());
        assert_eq!(report.n_tensors, model.parameters().len());
        assert!(report.unused.is_empty() && report.notes.is_empty());
    }
}

#[test]
fn shards_hold_the_same_and_stay_below_the_limit() {
    let model = tiny(Kernels::Fused, &flex());
    let dir = saved(&model);
    // Over an earlier export: its single file must not be read any more.
    let report = save_hf_sharded(&model, dir.path(), WeightDtype::F32, &NONE, 100_000).unwrap();
    let names = files(dir.path());
    let shards: Vec<_> = names.iter().filter(|name| name.starts_with("model-")).collect();
    assert!(shards.len() > 3 && !names.contains("model.safetensors"), "{names:?}");
    assert_eq!(names.iter().filter(|name| name.contains("partial")).count(), 0);
    for shard in shards {
        let bytes = fs::metadata(dir.path().join(shard)).unwrap().len();
        // The embedding and the output have 131,072 bytes each, and a file of their own.
        assert!(bytes < 100_000 + 2_000 || (131_072..133_000).contains(&bytes), "{shard}: {bytes}");
    }
    let index = fs::read_to_string(dir.path().join("model.safetensors.index.json")).unwrap();
    let index: Value = serde_json::from_str(&index).unwrap();
    assert_eq!(index["metadata"]["total_size"], report.n_weight_bytes);
    assert_eq!(index["weight_map"].as_object().unwrap().len(), model.parameters().len());
    let (again, loaded) = load(dir.path()).unwrap();
    assert!(parameters(&model) == parameters(&again) && loaded.unused.is_empty());
    // And back: no shard or index stays behind.
    save_hf(&model, dir.path(), WeightDtype::F32, &NONE).unwrap();
    assert_eq!(files(dir.path()).len(), 3);
}

#[test]
fn sixteen_bits_are_the_nearest() {
    let model = wide(&flex());
    let nearest: [(WeightDtype, fn(f32) -> f32); 2] = [
        (WeightDtype::Bf16, |v| bf16::from_f32(v).to_f32()),
        (WeightDtype::F16, |v| f16::from_f32(v).to_f32()),
    ];
    for (dtype, round) in nearest {
        let dir = tempfile::tempdir().unwrap();
        let report = save_hf(&model, dir.path(), dtype, &NONE).unwrap();
        assert_eq!(report.n_weight_bytes, 2 * model.config().param_count());
        let (again, _) = load(dir.path()).unwrap();
        for ((path, before), (_, after)) in parameters(&model).iter().zip(parameters(&again)) {
            assert!(before.iter().zip(after).all(|(b, a)| round(*b) == a), "{path}");
        }
    }
}

#[test]
fn what_f16_cannot_hold_is_refused_and_nothing_is_written() {
    let model = wide(&flex()).map_flat(&mut |path, _, values| match path {
        "blocks.1.wo.weight" => values.mul_scalar(1e6),
        _ => values,
    });
    let dir = tempfile::tempdir().unwrap();
    let error = save_hf(&model, dir.path(), WeightDtype::F16, &NONE).unwrap_err().to_string();
    assert!(error.contains("blocks.1.wo.weight") && error.contains("float16"), "{error}");
    assert!(files(dir.path()).is_empty());
}

#[test]
fn a_failed_export_leaves_the_earlier_one_and_no_debris() {
    let model = wide(&flex());
    let dir = saved(&model);
    // A folder where a file must be staged makes writing fail half-way, for any user.
    let obstacle = dir.path().join(format!(".config.json.{}.partial", std::process::id()));
    fs::create_dir(&obstacle).unwrap();
    let other = wide(&flex()).map_flat(&mut |_, _, values| values.mul_scalar(3.0));
    let error = save_hf(&other, dir.path(), WeightDtype::F32, &NONE).unwrap_err().to_string();
    assert!(error.contains("config.json") && error.contains("help: "), "{error}");
    fs::remove_dir(obstacle).unwrap();
    assert_eq!(files(dir.path()).len(), 3);
    assert!(parameters(&load(dir.path()).unwrap().0) == parameters(&model));
}

#[test]
fn special_ids_travel() {
    let dir = tempfile::tempdir().unwrap();
    let special = SpecialIds { bos: Some(1), eos: Some(2) };
    save_hf(&wide(&flex()), dir.path(), WeightDtype::F32, &special).unwrap();
    assert_eq!(load(dir.path()).unwrap().1.special, special);
    let text = fs::read_to_string(dir.path().join("generation_config.json")).unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(&text).unwrap(),
        json!({ "bos_token_id": 1, "eos_token_id": 2 })
    );
}

#[test]
fn left_over_tensors_are_named() {
    let model = wide(&flex());
    let dir = saved(&model);
    let extra = "model.layers.0.self_attn.q_norm.weight";
    // This one is known, and follows from the configuration.
    let buffer = "model.layers.0.self_attn.rotary_emb.inv_freq";
    rewrite(&dir.path().join("model.safetensors"), |entries| {
        for name in [extra, buffer] {
            entries.push((name.into(), safetensors::Dtype::F32, vec![1], vec![0; 4]));
        }
    });
    assert_eq!(load(dir.path()).unwrap().1.unused, [extra]);
}

#[test]
fn a_tied_output_in_the_file_is_the_embedding_or_is_named() {
    let model = wide(&flex());
    let dir = saved(&model);
    let weights = dir.path().join("model.safetensors");
    rewrite(&weights, |entries| {
        let embedding =
            entries.iter().find(|e| e.0 == "model.embed_tokens.weight").unwrap().clone();
        entries.push(("lm_head.weight".into(), embedding.1, embedding.2, embedding.3));
    });
    let (again, report) = load(dir.path()).unwrap();
    assert!(report.unused.is_empty() && report.notes.is_empty());
    assert!(parameters(&again) == parameters(&model));
    rewrite(&weights, |entries| {
        entries.iter_mut().find(|e| e.0 == "lm_head.weight").unwrap().3[0] ^= 1;
    });
    let report = load(dir.path()).unwrap().1;
    assert_eq!(report.unused, ["lm_head.weight"]);
    assert!(report.notes[0].contains("differs"), "{:?}", report.notes);
}

#[test]
fn missing_tensors_are_all_named() {
    let dir = saved(&tiny(Kernels::Fused, &flex()));
    rewrite(&dir.path().join("model.safetensors"), |entries| {
        entries.retain(|e| e.0 != "lm_head.weight" && !e.0.contains("layers.1.mlp"));
    });
    let message = refusal(dir.path());
    for part in ["lacks 4", "lm_head.weight", "layers.1.mlp.up_proj.weight", "tie_word_embeddings"]
    {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_wrong_shape_names_tensor_expected_and_found() {
    let dir = saved(&tiny(Kernels::Fused, &flex()));
    rewrite(&dir.path().join("model.safetensors"), |entries| {
        let k =
            entries.iter_mut().find(|e| e.0.ends_with("layers.1.self_attn.k_proj.weight")).unwrap();
        k.2 = vec![64, 32];
    });
    let message = refusal(dir.path());
    let parts = ["model.layers.1.self_attn.k_proj.weight", "shape [64, 32]", "asks for [32, 64]"];
    assert!(parts.iter().all(|part| message.contains(part)), "{message}");
}

#[test]
fn other_number_formats_are_refused() {
    let dir = saved(&tiny(Kernels::Fused, &flex()));
    rewrite(&dir.path().join("model.safetensors"), |entries| {
        let norm = entries.iter_mut().find(|e| e.0 == "model.norm.weight").unwrap();
        (norm.1, norm.3) = (safetensors::Dtype::I32, vec![0; 256]);
    });
    let message = refusal(dir.path());
    assert!(message.contains("model.norm.weight") && message.contains("I32"), "{message}");
}

#[test]
fn damage_is_refused() {
    let model = tiny(Kernels::Fused, &flex());
    let dir = saved(&model);
    let weights = dir.path().join("model.safetensors");
    let whole = fs::read(&weights).unwrap();
    let damages: [&[u8]; 4] = [&[], &whole[..7], &whole[..whole.len() - 1], &[0xff; 100]];
    for damage in damages {
        fs::write(&weights, damage).unwrap();
        assert!(refusal(dir.path()).contains("model.safetensors"));
    }
    fs::remove_file(&weights).unwrap();
    assert!(refusal(dir.path()).contains("there is no model.safetensors"));
    fs::write(dir.path().join("config.json"), "{\"model_type\":").unwrap();
    assert!(refusal(dir.path()).contains("config.json"));
    fs::remove_file(dir.path().join("config.json")).unwrap();
    assert!(refusal(dir.path()).contains("there is no config.json"));
    assert!(refusal(&dir.path().join("nowhere")).contains("nowhere"));
}

#[test]
fn an_index_reaches_no_file_outside_and_hides_no_shard() {
    let model = tiny(Kernels::Fused, &flex());
    let dir = tempfile::tempdir().unwrap();
    save_hf_sharded(&model, dir.path(), WeightDtype::F32, &NONE, 100_000).unwrap();
    let path = dir.path().join("model.safetensors.index.json");
    let good = fs::read_to_string(&path).unwrap();
    for bad in ["../model.safetensors", "/etc/passwd", "a/b", "..", ""] {
        let mut index: Value = serde_json::from_str(&good).unwrap();
        index["weight_map"]["model.norm.weight"] = json!(bad);
        fs::write(&path, index.to_string()).unwrap();
        assert!(refusal(dir.path()).contains("weight_map"), "{bad}");
    }
    for bad in ["[]", "{}", "{\"weight_map\": 3}", "{\"weight_map\": {\"a\": 3}}"] {
        fs::write(&path, bad).unwrap();
        assert!(refusal(dir.path()).contains("weight_map"), "{bad}");
    }
    fs::write(&path, &good).unwrap();
    let gone = dir.path().join("model-00002-of-00007.safetensors");
    let gone = if gone.exists() { gone } else { shard(dir.path(), 1) };
    fs::rename(&gone, dir.path().join("elsewhere")).unwrap();
    assert!(refusal(dir.path()).contains(gone.file_name().unwrap().to_str().unwrap()));
    fs::copy(shard(dir.path(), 0), &gone).unwrap();
    let message = refusal(dir.path());
    assert!(message.contains("is in both"), "{message}");
}

fn shard(dir: &Path, index: usize) -> std::path::PathBuf {
    let names = files(dir);
    dir.join(names.iter().filter(|name| name.starts_with("model-")).nth(index).unwrap())
}
