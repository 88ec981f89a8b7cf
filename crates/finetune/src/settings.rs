//! How a model is fine-tuned.

use caravan_model::{Llama, LlamaConfig, LoraConfig, TARGETS};
use caravan_parallel::Layout;
use caravan_train::{ParallelSection, RunConfig};
use serde::{Deserialize, Serialize};

use crate::error::{FinetuneError, Result};
use crate::packing::RowShape;

/// Settings of a run; `key=value` on the command line changes one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Seed of the new weights and of the order of examples.
    pub seed: u64,
    /// Times that every example is seen at most.
    pub epochs: u64,
    /// Examples of an update.
    pub batch: usize,
    /// Examples of a micro-batch, which a rank works on at once; 0 is all of `batch`. Ranks share out micro-batches, so
    /// there must be one for each data-parallel rank.
    pub micro_batch: usize,
    /// Tokens of a row, into which examples are packed; also the most that an example may have. 0 is the longest example's.
    pub seq_len: usize,
    /// `none` refuses an example that is too long, `head` keeps its beginning, `tail` its end.
    pub truncate: String,
    /// Learning rate after the warmup.
    pub peak_lr: f64,
    /// Part of all updates that the warmup takes.
    pub warmup: f64,
    /// Decay of matrices.
    pub weight_decay: f64,
    /// Largest norm of the gradient.
    pub grad_clip: f64,
    /// `lora`, or `full` for all weights.
    pub method: String,
    /// Inner width of the adapters.
    pub lora_rank: usize,
    /// Their term is multiplied by `lora_alpha / lora_rank`.
    pub lora_alpha: f64,
    /// Layers with adapters, separated by commas.
    pub lora_targets: String,
    /// Paths that stay as they are, separated by commas; `*` stands for any text.
    pub freeze: String,
    /// Factor of the learning rate from each block to the one below it; 1 is the same for all.
    pub layer_decay: f64,
    /// `balanced`, or `class:weight,...`: how often examples of a class come, beside those of others.
    pub class_weights: String,
    /// Where a classifier reads: `last`, the last token's state, or `mean`, that of all tokens.
    pub pool: String,
    /// Let a classifier read a learned mix of all layers, not the last alone.
    pub layer_mix: bool,
    /// Measurements on the development set in an epoch.
    pub evals_per_epoch: u64,
    /// Ends after so many measurements without a better one; 0 never does.
    pub patience: u64,
    /// `accuracy`, `macro_f1` or `loss`: what "better" means.
    pub metric: String,
    /// `f32` or `bf16`.
    pub dtype: String,
    /// How the work is split over ranks: the keys of `train`, such as `data_parallel`.
    pub parallel: ParallelSection,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 0,
            epochs: 2,
            batch: 32,
            micro_batch: 0,
            seq_len: 0,
            truncate: "none".to_owned(),
            peak_lr: 5e-4,
            warmup: 0.1,
            weight_decay: 0.01,
            grad_clip: 1.0,
            method: "lora".to_owned(),
            lora_rank: 8,
            lora_alpha: 16.0,
            lora_targets: TARGETS.join(","),
            freeze: String::new(),
            layer_decay: 1.0,
            class_weights: String::new(),
            pool: "last".to_owned(),
            layer_mix: false,
            evals_per_epoch: 4,
            patience: 0,
            metric: "accuracy".to_owned(),
            dtype: "f32".to_owned(),
            parallel: ParallelSection::default(),
        }
    }
}

impl Settings {
    /// Sets one, as `key=value` says.
    ///
    /// # Errors
    /// There is no such key, or the value is of another kind.
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        let mut values = toml::Table::try_from(&*self).expect("settings are plain values");
        let section = values["parallel"].as_table().expect("a section").clone();
        let known = || {
            let keys = values.keys().filter(|key| *key != "parallel").chain(section.keys());
            keys.cloned().collect::<Vec<_>>().join(", ")
        };
        let setting = |key: &str, found: &str, problem: String| FinetuneError::Setting {
            key: key.to_owned(),
            found: found.to_owned(),
            problem,
            help: format!("keys are {}", known()),
        };
        let Some((key, text)) = assignment.split_once('=') else {
            return Err(setting(assignment, "", "expected key=value".to_owned()));
        };
        let Some(old) = values.get(key).filter(|old| !old.is_table()).or(section.get(key)) else {
            return Err(setting(key, text, "there is no such key".to_owned()));
        };
        let kind = old.type_str();
        let value = match old {
            toml::Value::String(_) => Some(toml::Value::String(text.to_owned())),
            toml::Value::Integer(_) => text.parse().ok().map(toml::Value::Integer),
            toml::Value::Float(_) => text.parse().ok().map(toml::Value::Float),
            _ => text.parse().ok().map(toml::Value::Boolean),
        };
        let value = value.ok_or_else(|| setting(key, text, format!("expected {kind}")))?;
        match values.get_mut("parallel").and_then(toml::Value::as_table_mut) {
            Some(parallel) if parallel.contains_key(key) => parallel.insert(key.to_owned(), value),
            _ => values.insert(key.to_owned(), value),
        };
        *self = values.try_into().map_err(|e: toml::de::Error| FinetuneError::Setting {
            key: key.to_owned(),
            found: text.to_owned(),
            problem: e.message().to_owned(),
            help: "whole numbers are not negative".to_owned(),
        })?;
        Ok(())
    }

    /// Checks every rule.
    ///
    /// # Errors
    /// The first key that breaks one.
    pub fn validate(&self) -> Result<()> {
        let one_of = |key: &str, found: &str, known: &[&str]| match known.contains(&found) {
            true => Ok(()),
            false => Err(wrong(
                key,
                &found,
                "is unknown",
                &format!("choose one of {}", known.join(", ")),
            )),
        };
        one_of("truncate", &self.truncate, &["none", "head", "tail"])?;
        one_of("method", &self.method, &["lora", "full"])?;
        one_of("metric", &self.metric, &["accuracy", "macro_f1", "loss"])?;
        one_of("dtype", &self.dtype, &["f32", "bf16"])?;
        one_of("pool", &self.pool, &["last", "mean"])?;
        if self.pool == "mean" && self.parallel.context_parallel > 1 {
            let help = "use pool=last, or other ranks than context_parallel";
            return Err(wrong("pool", &self.pool, "needs whole sequences on a rank", help));
        }
        for (key, found) in [
            ("epochs", self.epochs),
            ("batch", self.batch as u64),
            ("evals_per_epoch", self.evals_per_epoch),
        ] {
            if found == 0 {
                return Err(wrong(
                    key,
                    &found,
                    "must be 1 or more",
                    "2 epochs of batches of 32 are usual",
                ));
            }
        }
        for (key, found, high) in
            [("peak_lr", self.peak_lr, 1.0), ("grad_clip", self.grad_clip, f64::MAX)]
        {
            if !(found > 0.0 && found <= high) {
                return Err(wrong(
                    key,
                    &found,
                    "is out of range",
                    "peak_lr 5e-4 (lora) or 3e-5 (full), and grad_clip 1 are usual",
                ));
            }
        }
        if !(self.weight_decay >= 0.0 && self.weight_decay.is_finite()) {
            let help = "0.01 is usual, 0 is none";
            return Err(wrong("weight_decay", &self.weight_decay, "is out of range", help));
        }
        if !(self.layer_decay > 0.0 && self.layer_decay <= 1.0) {
            let help = "0.8 to 0.95 are usual, 1 is none";
            return Err(wrong("layer_decay", &self.layer_decay, "must be in 0 .. 1", help));
        }
        if !(0.0..1.0).contains(&self.warmup) {
            return Err(wrong("warmup", &self.warmup, "must be in 0 .. 1", "0.1 is usual"));
        }
        if self.method == "lora" {
            self.lora().validate()?;
        }
        Ok(())
    }

    /// Refuses a metric that a kind of fine-tuning does not have.
    pub(crate) fn check_metric(&self, known: &[&str]) -> Result<()> {
        match known.contains(&self.metric.as_str()) {
            true => Ok(()),
            false => Err(wrong(
                "metric",
                &self.metric,
                "is not measured here",
                &format!("choose {}", known.join(", ")),
            )),
        }
    }

    /// Micro-batches of an update.
    pub(crate) fn n_micro_batches(&self) -> usize {
        match self.micro_batch {
            0 => 1,
            n => self.batch.div_ceil(n),
        }
    }

    /// Tokens of a row where the longest example has `longest`, and the model reads `context`.
    pub(crate) fn row_len(&self, longest: usize, context: usize) -> Result<usize> {
        // A few rows for a batch: short examples share one.
        const SHORTEST: usize = 128;
        match self.seq_len {
            0 => Ok(longest.max(SHORTEST).next_multiple_of(self.row_unit()).min(context)),
            asked if asked > context => Err(wrong(
                "seq_len",
                &asked,
                &format!("is more than the model's context of {context}"),
                "lower it",
            )),
            asked => Ok(asked),
        }
    }

    /// Rows for training. Ranks that share sequences cut all of them alike.
    pub(crate) fn rows(&self, seq_len: usize) -> RowShape {
        match self.row_unit() {
            1 => RowShape::up_to(seq_len),
            _ => RowShape::exactly(seq_len),
        }
    }

    /// What a row's length has to be a multiple of, so that ranks can share it.
    fn row_unit(&self) -> usize {
        let ParallelSection { context_parallel, tensor_parallel, sequence_parallel, .. } =
            self.parallel;
        let context = if context_parallel > 1 { 2 * context_parallel } else { 1 };
        let tensor = if sequence_parallel { tensor_parallel.max(1) } else { 1 };
        context * tensor
    }

    /// How ranks share the work, held against the model and the rows.
    pub(crate) fn layout(&self, model: &LlamaConfig, seq_len: usize) -> Result<Layout> {
        let n = self.n_micro_batches();
        let replicas = self.parallel.data_parallel * self.parallel.shard_parallel;
        if replicas > 0 && !n.is_multiple_of(replicas) {
            let problem = format!(
                "makes {n} micro-batches of batch = {}, which {replicas} data-parallel ranks cannot share",
                self.batch
            );
            let fits = self.batch.next_multiple_of(replicas);
            let help = format!("set batch={fits} and micro_batch={}", fits / replicas);
            return Err(wrong("micro_batch", &self.micro_batch, &problem, &help));
        }
        let mut config = RunConfig { parallel: self.parallel.clone(), ..RunConfig::default() };
        config.run.seq_len = seq_len;
        config.run.micro_batch = 1;
        config.run.global_batch = n;
        Ok(caravan_train::layout(&config, model)?)
    }

    /// What a run has to have in common with the one that it goes on with: the model, the examples, and all settings but
    /// those of the layout.
    pub(crate) fn identity(&self, model: &Llama, examples: &impl Serialize) -> String {
        let mut hasher = blake3::Hasher::new();
        let alike = Self { parallel: ParallelSection::default(), ..self.clone() };
        hasher.update(&serde_json::to_vec(&(alike, model.config(), examples)).expect("plain"));
        model.flat(&mut |path, _, values| {
            hasher.update(path.as_bytes());
            let data = values.into_data().convert::<f32>();
            hasher.update_rayon(data.as_bytes());
        });
        hasher.finalize().to_hex()[..32].to_owned()
    }

    /// A model for tokens as one for `n_classes` classes.
    pub(crate) fn classifier(&self, model: Llama, n_classes: usize) -> Result<Llama> {
        let mut model = model.with_classes(n_classes, self.seed)?;
        if self.pool == "mean" {
            model = model.with_mean_pool();
        }
        if self.layer_mix {
            model = model.with_layer_mix();
        }
        Ok(model)
    }

    /// The adapters that are asked for.
    pub fn lora(&self) -> LoraConfig {
        let targets = self.lora_targets.split(',').map(|target| target.trim().to_owned());
        LoraConfig { rank: self.lora_rank, alpha: self.lora_alpha, targets: targets.collect() }
    }
}

pub(crate) fn wrong(
    key: &str,
    found: &dyn std::fmt::Display,
    problem: &str,
    help: &str,
) -> FinetuneError {
    FinetuneError::Setting {
        key: key.to_owned(),
        found: found.to_string(),
        problem: problem.to_owned(),
        help: help.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_set_by_their_kind_and_checked() {
        let mut settings = Settings::default();
        for assignment in ["epochs=3", "peak_lr=1e-3", "method=full"] {
            settings.set(assignment).unwrap();
        }
        assert_eq!(
            (settings.epochs, settings.peak_lr, settings.method.as_str()),
            (3, 1e-3, "full")
        );
        settings.validate().unwrap();
        for (assignment, expected) in [
            ("epoch=3", "there is no such key"),
            ("epochs=many", "expected integer"),
            ("epochs=-1", "epochs = -1"),
            ("epochs", "expected key=value"),
        ] {
            let message = settings.clone().set(assignment).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        for assignment in [
            "method=half",
            "batch=0",
            "peak_lr=-1",
            "warmup=1",
            "weight_decay=-0.1",
            "truncate=middle",
        ] {
            let mut settings = settings.clone();
            settings.set(assignment).unwrap();
            assert!(settings.validate().is_err(), "{assignment}");
        }
        settings.set("method=lora").unwrap();
        settings.set("lora_targets=wq,q_proj").unwrap();
        assert!(settings.validate().unwrap_err().to_string().contains("q_proj"));
    }
}
