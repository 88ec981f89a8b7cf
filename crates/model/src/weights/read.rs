//! Reading a model directory: configuration, then every tensor from memory-mapped files.

// SAFETY of the one unsafe call: see `Mapped::open`.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::Device;
use caravan_kernels::Kernels;
use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::Value;

use super::names::{EMBEDDING, OUTPUT, Stored, stored};
use super::{EndIds, SpecialIds, WeightDtype, config, dtype};
use crate::{Llama, LlamaConfig, ModelError};

/// What was read, and what was left.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct LoadReport {
    /// The weight files.
    pub files: Vec<PathBuf>,
    /// Number of tensors that became parameters.
    pub n_tensors: usize,
    /// Names of tensors in the files that the model has no place for, in order.
    pub unused: Vec<String>,
    /// Peculiarities that were dealt with, one sentence each.
    pub notes: Vec<String>,
    /// Ids from `config.json`, or from a GGUF file's metadata.
    pub special: SpecialIds,
    /// All ids that end a text.
    pub ends: EndIds,
    /// Bytes of the weight files.
    pub n_bytes: u64,
    /// How long loading took, in seconds.
    pub secs: f64,
}

/// Reads a model directory of Hugging Face's transformers: LLaMA in F32, BF16 or F16, in one file or in shards.
///
/// Parameters become f32. Say to the user what [`LoadReport::unused`] and [`LoadReport::notes`] hold.
///
/// # Errors
/// Whatever keeps the model from being exactly the stored one: a setting that is not supported, a tensor that is missing
/// or has another shape, a damaged file. See [`ModelError`].
pub fn load_hf(
    dir: &Path,
    kernels: Kernels,
    device: &Device,
) -> Result<(Llama, LoadReport), ModelError> {
    let begun = Instant::now();
    let config_path = dir.join("config.json");
    if !config_path.is_file() {
        return Err(ModelError::NoModel { path: dir.to_owned(), missing: "config.json" });
    }
    let read = config::parse(&read_text(&config_path)?, &config_path)?;
    let (paths, shard_notes) = weight_files(dir)?;
    let maps = paths.iter().map(|path| Mapped::open(path)).collect::<Result<Vec<_>, _>>()?;
    let mut tensors = Tensors::new(&maps)?;
    check_present(&read.config, &tensors, dir)?;
    let mut report = LoadReport { files: paths, special: read.special, ..Default::default() };
    report.notes = read.notes;
    report.notes.extend(shard_notes);
    let model = Llama::from_values(&read.config, kernels, device, &mut |path, shape| {
        report.n_tensors += 1;
        tensors.take(&stored(path, shape))
    })?;
    if read.config.tie_embeddings {
        report.notes.extend(tensors.settle_tied_output());
    }
    report.unused = tensors.left.into_keys().filter(|name| !is_buffer(name)).collect();
    report.ends = EndIds::of_folder(dir)?;
    report.n_bytes = maps.iter().map(|file| file.len() as u64).sum();
    report.secs = begun.elapsed().as_secs_f64();
    Ok((model, report))
}

/// Frequencies that old versions of transformers saved along with the weights; they follow from the configuration.
fn is_buffer(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq")
}

/// Every missing tensor at once, before any is read.
fn check_present(
    config: &LlamaConfig,
    tensors: &Tensors<'_>,
    dir: &Path,
) -> Result<(), ModelError> {
    let names = config.parameters().into_iter().map(|info| stored(&info.path, &info.shape).name);
    let names: Vec<_> = names.filter(|name| !tensors.left.contains_key(name)).collect();
    match names.is_empty() {
        true => Ok(()),
        false => Err(ModelError::MissingTensors { path: dir.to_owned(), names }),
    }
}

/// The files that hold weights: `model.safetensors`, or those that the index names.
fn weight_files(dir: &Path) -> Result<(Vec<PathBuf>, Vec<String>), ModelError> {
    let single = dir.join("model.safetensors");
    let index_path = dir.join("model.safetensors.index.json");
    if single.is_file() {
        let both = index_path.is_file();
        let note = "model.safetensors was read; model.safetensors.index.json beside it was not";
        return Ok((vec![single], both.then(|| note.to_owned()).into_iter().collect()));
    }
    if !index_path.is_file() {
        let missing = "model.safetensors, nor model.safetensors.index.json";
        return Err(ModelError::NoModel { path: dir.to_owned(), missing });
    }
    let index: Value = serde_json::from_str(&read_text(&index_path)?)
        .map_err(|source| ModelError::Json { path: index_path.clone(), source })?;
    let wrong = |found: String| ModelError::Key {
        path: index_path.clone(),
        key: "weight_map".into(),
        found,
        expected: "an object that names a file in this folder for every tensor".into(),
        help: "copy model.safetensors.index.json again from where it came".into(),
    };
    let map = index.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| wrong("absent or no object".into()))?;
    let mut names = Vec::new();
    for value in map.values() {
        let name = value.as_str().ok_or_else(|| wrong(value.to_string()))?;
        // A name with a folder in it could reach any file of the machine.
        if Path::new(name).file_name().is_none_or(|bare| bare != name) {
            return Err(wrong(format!("\"{name}\"")));
        }
        names.push(name);
    }
    names.sort_unstable();
    names.dedup();
    Ok((names.into_iter().map(|name| dir.join(name)).collect(), Vec::new()))
}

pub(super) fn read_text(path: &Path) -> Result<String, ModelError> {
    fs::read_to_string(path).map_err(|source| cannot_read(path, source))
}

fn cannot_read(path: &Path, source: std::io::Error) -> ModelError {
    let help = match source.kind() {
        std::io::ErrorKind::NotFound => "copy the missing file into the folder".to_owned(),
        _ => "check that it is a readable file".to_owned(),
    };
    ModelError::Io { action: "read", path: path.to_owned(), help, source }
}

/// A memory-mapped weight file.
#[derive(Debug)]
pub(super) struct Mapped {
    path: PathBuf,
    map: Mmap,
}

impl Mapped {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.map
    }

    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    pub(super) fn open(path: &Path) -> Result<Self, ModelError> {
        let map = File::open(path).and_then(|file| {
            // SAFETY: the map is only read, as bytes, while this function's caller loads the model. Should another process
            // shorten the file meanwhile, the operating system ends ours; nothing else can keep that from happening
            // short of copying the file, which would double the memory of a load.
            unsafe { Mmap::map(&file) }
        });
        let map = map.map_err(|source| cannot_read(path, source))?;
        Ok(Self { path: path.to_owned(), map })
    }
}

/// The tensors that no parameter has taken yet, by name.
struct Tensors<'a> {
    left: BTreeMap<String, (&'a Path, TensorView<'a>)>,
    embedding: Option<TensorView<'a>>,
}

impl<'a> Tensors<'a> {
    fn new(maps: &'a [Mapped]) -> Result<Self, ModelError> {
        let mut left = BTreeMap::<_, (&Path, TensorView<'_>)>::new();
        for Mapped { path, map } in maps {
            let file = SafeTensors::deserialize(map)
                .map_err(|source| ModelError::SafeTensors { path: path.clone(), source })?;
            for (name, view) in file.tensors() {
                if let Some((first, _)) = left.get(&name) {
                    let (first, second) = (first.to_path_buf(), path.clone());
                    return Err(ModelError::DuplicateTensor { name, first, second });
                }
                left.insert(name, (path, view));
            }
        }
        Ok(Self { left, embedding: None })
    }

    /// The values of a parameter in our order.
    fn take(&mut self, stored: &Stored) -> Result<Vec<f32>, ModelError> {
        let Stored { name, shape, transposed } = stored;
        let (path, view) = self.left.remove(name).expect("presence was checked before");
        if view.shape() != shape {
            return Err(ModelError::ShapeMismatch {
                path: path.to_owned(),
                name: name.clone(),
                expected: shape.clone(),
                found: view.shape().to_vec(),
            });
        }
        let format = WeightDtype::from_safetensors(view.dtype()).ok_or_else(|| {
            let found = format!("{:?}", view.dtype());
            ModelError::Dtype { path: path.to_owned(), name: name.clone(), found }
        })?;
        if name == EMBEDDING {
            self.embedding = Some(view.clone());
        }
        let values = format.decode(view.data());
        Ok(match transposed {
            true => dtype::transpose(&values, shape[0], shape[1]),
            false => values,
        })
    }

    /// Files of tied models may hold the embedding a second time as output projection. The same bytes are simply the same
    /// weight; others are reported.
    fn settle_tied_output(&mut self) -> Option<String> {
        let (_, output) = self.left.get(OUTPUT)?;
        let embedding = self.embedding.as_ref()?;
        if output.dtype() == embedding.dtype()
            && output.shape() == embedding.shape()
            && output.data() == embedding.data()
        {
            self.left.remove(OUTPUT);
            return None;
        }
        Some(format!(
            "config.json ties the embeddings, but {OUTPUT} differs from {EMBEDDING}; the embedding was used for both"
        ))
    }
}
