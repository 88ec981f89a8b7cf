//! The one error type of this crate.

use thiserror::Error;

/// What can be wrong with optimizer settings, restored state or gradients.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum OptimError {
    /// A number is outside its range.
    #[error("{name} is {value}, expected {expected}\nhelp: set {name} to {expected}")]
    Setting {
        /// Configuration key.
        name: &'static str,
        /// What was given.
        value: String,
        /// The range it must lie in.
        expected: &'static str,
    },
    /// The final learning rate is above the peak.
    #[error(
        "min_lr {min_lr} is above peak_lr {peak_lr}\nhelp: lower min_lr; a tenth of peak_lr is usual"
    )]
    MinAbovePeak {
        /// Learning rate at the end.
        min_lr: f64,
        /// Learning rate after warmup.
        peak_lr: f64,
    },
    /// The warmup does not fit into the run.
    #[error(
        "warmup_steps {warmup_steps} is more than steps {steps}\n\
         help: lower warmup_steps or raise steps"
    )]
    WarmupTooLong {
        /// Steps of linear warmup.
        warmup_steps: u64,
        /// Steps of the whole run.
        steps: u64,
    },
    /// Warmup and final decay of a WSD schedule overlap.
    #[error(
        "schedule wsd: warmup_steps {warmup_steps} and {decay_steps} steps of decay do not fit into \
         steps {steps}\nhelp: lower warmup_steps or decay_fraction, or raise steps"
    )]
    DecayTooLong {
        /// Steps of linear warmup.
        warmup_steps: u64,
        /// Steps of the final decay.
        decay_steps: u64,
        /// Steps of the whole run.
        steps: u64,
    },
    /// A name that is not in a fixed list.
    #[error("unknown {what} `{name}`\nhelp: {}{}", nearest_text(.nearest), known_text(.known))]
    UnknownName {
        /// What the name stands for, such as `schedule`.
        what: &'static str,
        /// What was given.
        name: String,
        /// The closest known name, where one is close.
        nearest: Option<&'static str>,
        /// All known names.
        known: &'static [&'static str],
    },
    /// A weight-decay rule that matches no parameter, most likely a typing mistake.
    #[error(
        "weight-decay rule `{pattern}` matches no parameter\n\
         help: patterns are whole module paths in which `*` stands for any text, such as `embed.*`{}",
        .nearest.as_ref().map(|n| format!("; the closest path is `{n}`")).unwrap_or_default()
    )]
    UnmatchedRule {
        /// The pattern.
        pattern: String,
        /// The closest parameter path.
        nearest: Option<String>,
    },
    /// Restored state has another size than its parameter.
    #[error(
        "optimizer state of `{path}`: {what} has {found} elements, expected {expected}\n\
         help: the checkpoint belongs to another model; resume with the configuration it was saved with"
    )]
    StateSize {
        /// Module path of the parameter.
        path: String,
        /// Which part of the state.
        what: &'static str,
        /// Elements of the parameter.
        expected: usize,
        /// Elements of the restored vector.
        found: usize,
    },
    /// A gradient holds NaN or an infinity.
    #[error(
        "gradient of `{path}` is {value} at flat index {index}\n\
         help: lower peak_lr or raise warmup_steps, and look at the batch of this step"
    )]
    NotFinite {
        /// Module path of the parameter.
        path: String,
        /// First bad position in the flat parameter.
        index: usize,
        /// The value found there.
        value: f32,
    },
}

fn nearest_text(nearest: &Option<&'static str>) -> String {
    nearest.map(|n| format!("did you mean `{n}`? ")).unwrap_or_default()
}

fn known_text(known: &[&str]) -> String {
    format!("known names are {}", known.join(", "))
}
