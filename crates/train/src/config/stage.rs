//! `[[stages]]`: a curriculum, one stage after the other in one run.

use caravan_dataset::Unit;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::RunConfig;
use crate::error::{Result, TrainError};

/// A stage; what it leaves out is as in `[run]` and `[data]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// What the report calls it; absent: its unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `document`, `paragraph` or `sentence`: what stands by itself, nothing being predicted across its ends.
    #[serde(default)]
    pub unit: Unit,
    /// Updates.
    pub steps: u64,
    /// Tokens the model sees at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq_len: Option<usize>,
    /// Sequences per update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub global_batch: Option<usize>,
    /// Sequences per forward on a rank.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<usize>,
    /// Weight of each text in the mix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<Vec<f64>>,
}

/// The keys of a stage.
const KEYS: [&str; 7] =
    ["name", "unit", "steps", "seq_len", "global_batch", "micro_batch", "weights"];

/// Takes the stages out of a file's table.
///
/// # Errors
/// A stage with an unknown key, without `steps`, or with a value of another kind.
pub(super) fn take(table: &mut Table, origin: &str) -> Result<Vec<Stage>> {
    let Some(value) = table.remove("stages") else { return Ok(Vec::new()) };
    let bad = |key: String, problem: String, help: String| TrainError::BadValue {
        origin: origin.to_owned(),
        key,
        problem,
        help,
    };
    let Value::Array(stages) = value else {
        let help = "write each stage as a table of its own, under [[stages]]".to_owned();
        return Err(bad("stages".to_owned(), "is no list of tables".to_owned(), help));
    };
    let stage = |(i, value): (usize, Value)| {
        let key = format!("stages[{i}]");
        let mut value = value;
        if let Some(table) = value.as_table_mut() {
            if let Some(unknown) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
                let problem = format!("has the unknown key `{unknown}`");
                return Err(bad(key, problem, format!("a stage has {}", KEYS.join(", "))));
            }
            // Whole numbers are fine where fractions are expected.
            if let Some(Value::Array(weights)) = table.get_mut("weights") {
                for weight in weights {
                    if let Value::Integer(i) = weight {
                        *weight = Value::Float(*i as f64);
                    }
                }
            }
        }
        value.try_into::<Stage>().map_err(|e| {
            let help = "every stage needs `steps`; units are document, paragraph and sentence";
            bad(key, format!("is no stage: {}", e.message().trim()), help.to_owned())
        })
    };
    stages.into_iter().enumerate().map(stage).collect()
}

impl Stage {
    /// The name in reports.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(self.unit.name())
    }
}

impl RunConfig {
    /// The run that a stage would be by itself; `[run]` with the stage's values.
    pub(crate) fn of_stage(&self, stage: &Stage) -> Self {
        let mut config = Self { stages: Vec::new(), ..self.clone() };
        config.run.steps = stage.steps;
        config.run.seq_len = stage.seq_len.unwrap_or(self.run.seq_len);
        config.run.global_batch = stage.global_batch.unwrap_or(self.run.global_batch);
        config.run.micro_batch = stage.micro_batch.unwrap_or(self.run.micro_batch);
        if let Some(weights) = &stage.weights {
            config.data.weights.clone_from(weights);
        }
        config
    }

    /// With what follows from the stages: all their steps, and the longest of their sequences.
    ///
    /// # Errors
    /// Two stages of one name.
    pub(crate) fn with_sums_of_stages(mut self) -> Result<Self> {
        if self.stages.is_empty() {
            return Ok(self);
        }
        for (i, stage) in self.stages.iter().enumerate() {
            if self.stages[..i].iter().any(|other| other.name() == stage.name()) {
                return Err(TrainError::plan(
                    format!("two stages are called `{}`", stage.name()),
                    "give each stage a `name` of its own",
                ));
            }
        }
        // Written out, so that they stay what they are beside the new `[run]`.
        for stage in &mut self.stages {
            stage.seq_len.get_or_insert(self.run.seq_len);
            stage.global_batch.get_or_insert(self.run.global_batch);
            stage.micro_batch.get_or_insert(self.run.micro_batch);
        }
        self.run.steps = self.stages.iter().map(|stage| stage.steps).sum();
        self.run.seq_len = self.stages.iter().filter_map(|stage| stage.seq_len).max().unwrap_or(1);
        Ok(self)
    }
}
