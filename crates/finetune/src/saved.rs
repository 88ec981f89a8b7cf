//! A classifier in a folder: what was trained, and what it was trained on.
//!
//! | file | holds |
//! |---|---|
//! | `classifier.json` | class names, settings, the model that it began with |
//! | `weights.safetensors` | what was trained, by module path |

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Tensor, TensorData};
use caravan_model::Llama;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde::{Deserialize, Serialize};

use crate::classify::is_of_head;
use crate::error::{FinetuneError, Result, io};
use crate::settings::Settings;

const INFO: &str = "classifier.json";
const WEIGHTS: &str = "weights.safetensors";

/// What belongs to a classifier beside its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Classifier {
    /// Version of this form.
    pub version: u32,
    /// Where the model that it began with is.
    pub base: PathBuf,
    /// Whether that is a run's folder, not a model's.
    pub base_is_run: bool,
    /// The classes, in the order of the logits.
    pub classes: Vec<String>,
    /// Tokens of a row.
    pub seq_len: usize,
    /// How it was trained.
    pub settings: Settings,
}

/// The version that is written and read.
const VERSION: u32 = 1;

/// A classifier's folder.
#[derive(Clone, Debug)]
pub struct SavedClassifier {
    dir: PathBuf,
    info: Classifier,
}

impl Classifier {
    /// Everything but the weights.
    pub fn new(
        base: PathBuf,
        base_is_run: bool,
        classes: Vec<String>,
        seq_len: usize,
        settings: Settings,
    ) -> Self {
        Self { version: VERSION, base, base_is_run, classes, seq_len, settings }
    }

    /// Whether the parameter at `path` is part of what was trained.
    fn has(&self, path: &str) -> bool {
        self.settings.method == "full" || path.contains(".lora.") || is_of_head(path)
    }

    /// Writes the folder; a file that is there is replaced as a whole.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn save(&self, model: &Llama, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(io("create", dir))?;
        let mut tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
        model.flat(&mut |path, shape, values| {
            if self.has(path) {
                let values: Vec<f32> = values
                    .into_data()
                    .convert::<f32>()
                    .try_into_vec()
                    .expect("just converted to f32");
                let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                tensors.insert(path.to_owned(), (shape.to_vec(), bytes));
            }
        });
        let views: Vec<(&String, TensorView<'_>)> = tensors
            .iter()
            .map(|(path, (shape, bytes))| {
                let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
                (path, view.expect("as many bytes as the shape has"))
            })
            .collect();
        let (path, beside) = (dir.join(WEIGHTS), dir.join(format!(".{WEIGHTS}.partial")));
        let failed = |e: safetensors::SafeTensorError| std::io::Error::other(e);
        serialize_to_file(views, None, &beside).map_err(failed).map_err(io("write", &path))?;
        std::fs::rename(&beside, &path).map_err(io("write", &path))?;
        let text = serde_json::to_string_pretty(self).expect("plain values");
        let path = dir.join(INFO);
        caravan_train::write_whole(&path, format!("{text}\n").as_bytes())
            .map_err(|e| io("write", &path)(std::io::Error::other(e.to_string())))?;
        Ok(())
    }
}

impl SavedClassifier {
    /// Reads what belongs to the classifier in a folder.
    ///
    /// # Errors
    /// There is none, or it is of another version.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(INFO);
        let text = std::fs::read_to_string(&path).map_err(io("read", &path))?;
        let file = |problem: String| FinetuneError::File {
            path: path.clone(),
            problem,
            help: "give the folder that `finetune classify` wrote".to_owned(),
        };
        let info: Classifier = serde_json::from_str(&text).map_err(|e| file(e.to_string()))?;
        if info.version != VERSION {
            return Err(file(format!("version {}, expected {VERSION}", info.version)));
        }
        Ok(Self { dir: dir.to_owned(), info })
    }

    /// What belongs to it.
    pub fn info(&self) -> &Classifier {
        &self.info
    }

    /// The classifier, from the model that it began with.
    ///
    /// # Errors
    /// The weights are missing or do not fit the model.
    pub fn load(&self, base: Llama) -> Result<Llama> {
        let settings = &self.info.settings;
        let mut model = settings.classifier(base, self.info.classes.len())?;
        if settings.method == "lora" {
            model = model.with_lora(&settings.lora(), settings.seed)?;
        }
        let path = self.dir.join(WEIGHTS);
        let bytes = std::fs::read(&path).map_err(io("read", &path))?;
        let file = |problem: String| FinetuneError::File {
            path: path.clone(),
            problem,
            help: "the folder and the model it began with must be those of the training".to_owned(),
        };
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| file(e.to_string()))?;
        let mut failed = None;
        let model = model.map_flat(&mut |name, shape, old| {
            if !self.info.has(name) {
                return old;
            }
            match tensors.tensor(name) {
                Ok(view) if view.shape() == shape && view.dtype() == Dtype::F32 => {
                    let value = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                    let values: Vec<f32> = view.data().chunks_exact(4).map(value).collect();
                    let n = values.len();
                    Tensor::from_data(TensorData::new(values, [n]), (&old.device(), DType::F32))
                }
                Ok(view) => {
                    failed.get_or_insert(format!(
                        "`{name}` has the shape {:?}, expected {shape:?}",
                        view.shape()
                    ));
                    old
                }
                Err(_) => {
                    failed.get_or_insert(format!("`{name}` is missing"));
                    old
                }
            }
        });
        match failed {
            None => Ok(model),
            Some(problem) => Err(file(problem)),
        }
    }
}
