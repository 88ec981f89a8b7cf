//! Writing a model directory that transformers reads. Every file is written beside its place first; only when all are
//! complete and on disk are they renamed, `config.json` last.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use burn::tensor::Tensor;
use safetensors::tensor::{Dtype, View, serialize_to_file};
use serde_json::{Value, json};

use super::names::{Stored, stored};
use super::{SpecialIds, WeightDtype, config, dtype};
use crate::{Llama, ModelError};

/// Weights of one file stay below this many bytes, as in transformers 4, unless one tensor is larger.
pub const MAX_SHARD_BYTES: u64 = 5_000_000_000;

const INDEX: &str = "model.safetensors.index.json";

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SaveReport {
    /// The files, weights first.
    pub files: Vec<PathBuf>,
    /// Bytes of all weights.
    pub n_weight_bytes: u64,
    /// What a reader of the export should know, one sentence each.
    pub notes: Vec<String>,
}

/// Writes `config.json`, `generation_config.json` and the weights into `dir`, which is made if absent. A model that was there
/// is replaced.
///
/// # Errors
/// [`ModelError::Io`] where the disk refuses; then a model that was there is untouched unless renaming itself failed.
/// [`ModelError::Overflow`] where a weight is too large for `dtype`.
pub fn save_hf(
    model: &Llama,
    dir: &Path,
    dtype: WeightDtype,
    special: &SpecialIds,
) -> Result<SaveReport, ModelError> {
    save_hf_sharded(model, dir, dtype, special, MAX_SHARD_BYTES)
}

/// As [`save_hf`], with shards of at most `max_shard_bytes` of weights (a larger tensor gets its own).
///
/// # Errors
/// As [`save_hf`].
pub fn save_hf_sharded(
    model: &Llama,
    dir: &Path,
    dtype: WeightDtype,
    special: &SpecialIds,
    max_shard_bytes: u64,
) -> Result<SaveReport, ModelError> {
    let mut tensors = Vec::new();
    model.flat(&mut |path, shape, values| {
        tensors.push(Stores { path: path.to_owned(), stored: stored(path, shape), values, dtype });
    });
    tensors.iter().try_for_each(Stores::check_range)?;
    fs::create_dir_all(dir).map_err(|source| failed("create", dir, source))?;
    let n_weight_bytes = tensors.iter().map(|tensor| tensor.data_len() as u64).sum();
    let shards = split(tensors, max_shard_bytes);
    let names: Vec<_> = (1..=shards.len()).map(|i| shard_name(i, shards.len())).collect();
    let mut staged = Staged::new(dir);
    let mut weight_map = BTreeMap::new();
    for (name, shard) in names.iter().zip(shards) {
        weight_map.extend(shard.iter().map(|tensor| (tensor.stored.name.clone(), name.clone())));
        staged.write_weights(name, shard)?;
    }
    if names.len() > 1 {
        let index =
            json!({ "metadata": { "total_size": n_weight_bytes }, "weight_map": weight_map });
        staged.write_json(INDEX, &index)?;
    }
    staged.write_json(
        "generation_config.json",
        &json!({ "bos_token_id": special.bos, "eos_token_id": special.eos }),
    )?;
    staged.write_json("config.json", &config::write(model.config(), dtype, special))?;
    let files = staged.commit()?;
    Ok(SaveReport { files, n_weight_bytes, notes: notes(model) })
}

fn notes(model: &Llama) -> Vec<String> {
    let config = model.config();
    if config.d_model.is_multiple_of(config.n_heads) {
        return Vec::new();
    }
    vec![format!(
        "transformers reads no LLaMA whose hidden_size ({}) is not a multiple of num_attention_heads ({}), even with head_dim given",
        config.d_model, config.n_heads
    )]
}

/// Consecutive tensors that fit into a shard together.
fn split(tensors: Vec<Stores>, max_shard_bytes: u64) -> Vec<Vec<Stores>> {
    let mut shards: Vec<Vec<Stores>> = Vec::new();
    let mut bytes = 0;
    for tensor in tensors {
        let more = tensor.data_len() as u64;
        match shards.last_mut() {
            Some(shard) if bytes + more <= max_shard_bytes => shard.push(tensor),
            _ => {
                shards.push(vec![tensor]);
                bytes = 0;
            }
        }
        bytes += more;
    }
    shards
}

fn shard_name(index: usize, n_shards: usize) -> String {
    match n_shards {
        1 => "model.safetensors".to_owned(),
        _ => format!("model-{index:05}-of-{n_shards:05}.safetensors"),
    }
}

/// Whether a name is one that [`shard_name`] gives, for any number of shards.
fn is_weight_file(name: &str) -> bool {
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    let shard = name.strip_prefix("model-").and_then(|rest| rest.strip_suffix(".safetensors"));
    name == "model.safetensors"
        || shard
            .and_then(|rest| rest.split_once("-of-"))
            .is_some_and(|(index, n_shards)| digits(index) && digits(n_shards))
}

/// A parameter that becomes a stored tensor when it is written, one at a time.
struct Stores {
    path: String,
    stored: Stored,
    values: Tensor<1>,
    dtype: WeightDtype,
}

impl Stores {
    fn host(&self) -> Vec<f32> {
        let data = self.values.clone().into_data().convert::<f32>();
        data.try_into_vec().expect("the data was just converted to f32")
    }

    fn check_range(&self) -> Result<(), ModelError> {
        if self.dtype == WeightDtype::F32 {
            return Ok(());
        }
        match self.host().into_iter().find(|value| self.dtype.overflows(*value)) {
            None => Ok(()),
            Some(value) => Err(ModelError::Overflow {
                path: self.path.clone(),
                value,
                dtype: self.dtype.torch_name(),
            }),
        }
    }
}

impl View for Stores {
    fn dtype(&self) -> Dtype {
        self.dtype.safetensors()
    }

    fn shape(&self) -> &[usize] {
        &self.stored.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut values = self.host();
        if self.stored.transposed {
            // We hold [d_in, d_out], the file [d_out, d_in].
            let [d_out, d_in] = self.stored.shape[..] else {
                unreachable!("only matrices are transposed")
            };
            values = dtype::transpose(&values, d_in, d_out);
        }
        Cow::Owned(self.dtype.encode(&values))
    }

    fn data_len(&self) -> usize {
        self.stored.shape.iter().product::<usize>() * self.dtype.size()
    }
}

/// Files that are complete but not yet at their place; removed again unless committed.
struct Staged<'a> {
    dir: &'a Path,
    names: Vec<String>,
}

impl<'a> Staged<'a> {
    fn new(dir: &'a Path) -> Self {
        Self { dir, names: Vec::new() }
    }

    fn temporary(&self, name: &str) -> PathBuf {
        self.dir.join(format!(".{name}.{}.partial", std::process::id()))
    }

    /// The temporary path of a new file; from here on it is cleaned up.
    fn begin(&mut self, name: &str) -> PathBuf {
        self.names.push(name.to_owned());
        self.temporary(name)
    }

    fn write_json(&mut self, name: &str, value: &Value) -> Result<(), ModelError> {
        let path = self.begin(name);
        let text = format!("{value:#}\n");
        let write = || {
            let mut file = File::create(&path)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        write().map_err(|source| failed("write", &self.dir.join(name), source))
    }

    fn write_weights(&mut self, name: &str, tensors: Vec<Stores>) -> Result<(), ModelError> {
        let path = self.begin(name);
        let tensors = tensors.into_iter().map(|tensor| (tensor.stored.name.clone(), tensor));
        // transformers refuses files without this.
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let write = || {
            // The library's file is for its owner alone; what we write is readable as any new file is.
            let permissions = File::create(&path)?.metadata()?.permissions();
            serialize_to_file(tensors, Some(metadata), &path).map_err(|error| match error {
                safetensors::SafeTensorError::IoError(error) => error,
                other => io::Error::other(other),
            })?;
            fs::set_permissions(&path, permissions)?;
            File::open(&path)?.sync_all()
        };
        write().map_err(|source| failed("write", &self.dir.join(name), source))
    }

    /// Renames every file to its place in the order written, and removes weights of an earlier export that would be read with
    /// or instead of these.
    fn commit(mut self) -> Result<Vec<PathBuf>, ModelError> {
        self.remove_stale()?;
        let mut files = Vec::new();
        for name in std::mem::take(&mut self.names) {
            let path = self.dir.join(&name);
            fs::rename(self.temporary(&name), &path)
                .map_err(|source| failed("rename a finished file to", &path, source))?;
            files.push(path);
        }
        // A rename is on disk when its folder is.
        File::open(self.dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|source| failed("sync", self.dir, source))?;
        Ok(files)
    }

    fn remove_stale(&self) -> Result<(), ModelError> {
        let entries = fs::read_dir(self.dir).map_err(|source| failed("list", self.dir, source))?;
        for entry in entries {
            let entry = entry.map_err(|source| failed("list", self.dir, source))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let ours = name == INDEX || is_weight_file(&name);
            if ours && !self.names.contains(&name) {
                let path = entry.path();
                fs::remove_file(&path).map_err(|source| failed("remove", &path, source))?;
            }
        }
        Ok(())
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        for name in &self.names {
            // Best effort: the error that brought us here is the one to tell.
            let _ = fs::remove_file(self.temporary(name));
        }
    }
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> ModelError {
    let help = match source.kind() {
        io::ErrorKind::StorageFull => "free some space, or give a folder on another disk",
        io::ErrorKind::PermissionDenied => "give a folder that you may write to",
        _ => "check the folder, or give another one",
    };
    ModelError::Io { action, path: path.to_owned(), help: help.to_owned(), source }
}
