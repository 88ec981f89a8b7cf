//! Where shared files, Python and fixtures are; reading reference models.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use burn::tensor::{Device, Int, Tensor, TensorData};
use caravan_model::{Kernels, Llama, LlamaConfig, device, load_hf, preset};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

pub(crate) fn flex() -> Device {
    device::parse("flex").unwrap()
}

/// A folder of the repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// Reference models that the repository holds.
pub(crate) fn fixtures() -> Vec<PathBuf> {
    let found = folders(&repository("fixtures/reference"));
    assert!(found.len() >= 2, "fixtures/reference must hold the reference models");
    found
}

/// Reference models beside the repository, where they are.
pub(crate) fn shared(test: &str) -> Option<Vec<PathBuf>> {
    let root = variable("CARAVAN_SHARED").map_or_else(|| repository("../shared"), PathBuf::from);
    let root = root.join("reference");
    let found = folders(&root);
    if found.is_empty() {
        eprintln!("NOT RUN: {test}: no reference models in {}", root.display());
        return None;
    }
    Some(found)
}

fn folders(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = root.read_dir() else { return Vec::new() };
    let mut found: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.join("reference.json").is_file());
    found.sort();
    found
}

/// Runs a script of `tests/python` and returns its lines, or says that it was not run.
pub(crate) fn python(test: &str, script: &str, arguments: &[String]) -> Option<Vec<String>> {
    let Some(interpreter) = variable("CARAVAN_PYTHON") else {
        eprintln!("NOT RUN: {test}: no Python (CARAVAN_PYTHON)");
        return None;
    };
    let script = repository("crates/model/tests/python").join(script);
    let output = Command::new(interpreter)
        .arg("-B")
        .arg(script)
        .args(arguments)
        .output()
        .expect("CARAVAN_PYTHON must be a Python interpreter");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect())
}

#[allow(clippy::disallowed_methods)] // The tests' one look at the environment.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A small model with grouped queries.
pub(crate) fn tiny(kernels: Kernels, device: &Device) -> Llama {
    Llama::init(&preset("tiny").unwrap(), 5, kernels, device).unwrap()
}

/// A smaller one still, tied, whose weights are wide enough that a position's logits depend on the others.
pub(crate) fn wide(device: &Device) -> Llama {
    let config = LlamaConfig {
        vocab_size: 50,
        d_model: 24,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 8,
        d_ff: 40,
        tie_embeddings: true,
        max_seq_len: 32,
        init_std: 0.5,
        ..preset("tiny").unwrap()
    };
    Llama::init(&config, 3, Kernels::Fused, device).unwrap()
}

/// Ids that look random but are not.
pub(crate) fn ids(rows: usize, n: usize, vocab_size: usize, device: &Device) -> Tensor<2, Int> {
    let ids: Vec<i32> =
        (0..rows * n).map(|i| ((i * 7919 + i / 3 * 31 + 5) % vocab_size) as i32).collect();
    int(ids, [rows, n], device)
}

pub(crate) fn int(ids: Vec<i32>, shape: [usize; 2], device: &Device) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::new(ids, shape), device)
}

pub(crate) fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

pub(crate) fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |m, v| m.max(v.abs()))
}

/// The largest difference.
pub(crate) fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    assert!(a.iter().chain(b).all(|v| v.is_finite()));
    a.iter().zip(b).fold(0.0, |m, (a, b)| m.max((a - b).abs()))
}

/// Every parameter's path and values.
pub(crate) fn parameters(model: &Llama) -> Vec<(String, Vec<f32>)> {
    let mut found = Vec::new();
    model.flat(&mut |path, _, values| found.push((path.to_owned(), host(values))));
    found
}

/// A reference model with what transformers computed from it.
pub(crate) struct Reference {
    pub(crate) dir: PathBuf,
    pub(crate) facts: Value,
    bytes: Vec<u8>,
}

impl Reference {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let read = |name: &str| std::fs::read(dir.join(name)).context(name.to_owned());
        let facts = serde_json::from_slice(&read("reference.json")?)?;
        Ok(Self { dir: dir.to_owned(), facts, bytes: read("reference.safetensors")? })
    }

    pub(crate) fn model(&self, kernels: Kernels, device: &Device) -> Result<Llama> {
        let (model, report) = load_hf(&self.dir, kernels, device)?;
        ensure!(report.unused.is_empty() && report.notes.is_empty(), "{report:?}");
        Ok(model)
    }

    pub(crate) fn floats(&self, name: &str) -> Result<Vec<f32>> {
        let file = SafeTensors::deserialize(&self.bytes)?;
        let view = file.tensor(name).with_context(|| name.to_owned())?;
        ensure!(view.dtype() == Dtype::F32);
        let numbers = view.data().as_chunks::<4>().0.iter();
        Ok(numbers.map(|b| f32::from_le_bytes(*b)).collect())
    }

    /// Ids and their shape.
    pub(crate) fn ints(&self, name: &str) -> Result<(Vec<i32>, [usize; 2])> {
        let file = SafeTensors::deserialize(&self.bytes)?;
        let view = file.tensor(name).with_context(|| name.to_owned())?;
        ensure!(view.dtype() == Dtype::I64);
        let numbers = view.data().as_chunks::<8>().0.iter();
        let numbers = numbers.map(|b| i32::try_from(i64::from_le_bytes(*b)));
        Ok((numbers.collect::<Result<_, _>>()?, view.shape().try_into()?))
    }

    pub(crate) fn inputs(&self, device: &Device) -> Result<Tensor<2, Int>> {
        let (ids, shape) = self.ints("input_ids")?;
        Ok(int(ids, shape, device))
    }

    /// Targets of every position, -1 where ignored, from labels that transformers shifts itself; and how many count.
    pub(crate) fn targets(&self, labels: &str, device: &Device) -> Result<(Tensor<2, Int>, usize)> {
        let (labels, [rows, n]) = self.ints(labels)?;
        let next = |i: usize| if (i + 1).is_multiple_of(n) { -1 } else { labels[i + 1].max(-1) };
        let targets: Vec<i32> = (0..rows * n).map(next).collect();
        let count = targets.iter().filter(|target| **target >= 0).count();
        Ok((int(targets, [rows, n], device), count))
    }

    pub(crate) fn number(&self, pointer: &str) -> f64 {
        self.facts.pointer(pointer).and_then(Value::as_f64).unwrap()
    }
}
