use std::path::{Path, PathBuf};

use burn::tensor::Device;
use caravan_generate::Sampler;
use caravan_model::{Kernels, load_hf};
use safetensors::SafeTensors;

use crate::decode::{by_full_passes, run};

/// Greedy ids of transformers' `generate`, with the cache and by full passes.
fn check(dir: &Path) {
    let file = std::fs::read(dir.join("reference.safetensors")).unwrap();
    let json = std::fs::read_to_string(dir.join("reference.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let n_prompt = json["greedy"]["prompt_len"].as_u64().unwrap() as usize;
    let view = SafeTensors::deserialize(&file).unwrap();
    let view = view.tensor("greedy_ids").unwrap();
    let ids: Vec<u32> = view
        .data()
        .chunks_exact(8)
        .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32)
        .collect();
    let (prompt, expected) = ids.split_at(n_prompt);
    for kernels in [Kernels::Reference, Kernels::Fused] {
        let (model, _) = load_hf(dir, kernels, &Device::flex()).unwrap();
        let greedy = Sampler::greedy();
        let (found, _) = run(&model, prompt, None, &greedy, expected.len()).unwrap();
        assert_eq!(found, expected, "{} {kernels:?}", dir.display());
        assert_eq!(by_full_passes(&model, prompt, &greedy, expected.len()), expected);
    }
}

fn references(root: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.filter(|dir| dir.join("reference.json").exists()).collect()
}

#[test]
fn greedy_ids_are_those_of_transformers() {
    let found =
        references(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/reference")));
    assert!(!found.is_empty(), "no references among the fixtures");
    found.iter().for_each(|dir| check(dir));
}

#[test]
#[allow(clippy::disallowed_methods)]
fn shared_greedy_ids_are_those_of_transformers() {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared").to_owned();
    let root = Path::new(&std::env::var("CARAVAN_SHARED").unwrap_or(default)).join("reference");
    let found = references(&root);
    if found.is_empty() {
        eprintln!(
            "NOT RUN: shared_greedy_ids_are_those_of_transformers: no references in {}",
            root.display()
        );
    }
    found.iter().for_each(|dir| check(dir));
}
