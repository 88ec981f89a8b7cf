//! Learning rates as pure functions of the step: nothing to save, nothing to replay.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::OptimError;

/// How the learning rate falls after the warmup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum Schedule {
    /// Half a cosine from `peak_lr` to `min_lr`.
    #[default]
    Cosine,
    /// A straight line from `peak_lr` to `min_lr`.
    Linear,
    /// Warmup, stable, decay: `peak_lr` until the last `decay_fraction` of the steps, then down to
    /// `min_lr` (Hu et al. 2024, MiniCPM; the `1-sqrt` shape from Haegele et al. 2024).
    Wsd,
    /// `peak_lr` for ever; `min_lr` plays no part.
    Constant,
}

/// The shape of the decay of [`Schedule::Wsd`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum DecayShape {
    /// `1 - sqrt(u)`, `u` being the fraction of the decay that is over.
    #[default]
    OneMinusSqrt,
    /// `1 - u`.
    Linear,
}

/// The numbers of a schedule, unchecked.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleConfig {
    /// Which curve.
    pub schedule: Schedule,
    /// Learning rate at the end of the warmup.
    pub peak_lr: f64,
    /// Learning rate at step `steps` and after.
    pub min_lr: f64,
    /// Steps of linear warmup; the first update uses `peak_lr / warmup_steps`.
    pub warmup_steps: u64,
    /// Steps of the whole run.
    pub steps: u64,
    /// Part of `steps` in which [`Schedule::Wsd`] decays, in `(0, 1]`.
    pub decay_fraction: f64,
    /// The shape of that decay.
    pub decay_shape: DecayShape,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self {
            schedule: Schedule::Cosine,
            peak_lr: 1e-3,
            min_lr: 1e-4,
            warmup_steps: 100,
            steps: 1000,
            decay_fraction: 0.2,
            decay_shape: DecayShape::OneMinusSqrt,
        }
    }
}

/// A checked schedule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LrSchedule {
    config: ScheduleConfig,
    /// First step after which the rate falls.
    decay_start: u64,
    /// Steps from there to `min_lr`.
    decay_steps: u64,
}

impl LrSchedule {
    /// Checks the numbers.
    ///
    /// # Errors
    /// [`OptimError::Setting`], [`OptimError::MinAbovePeak`], [`OptimError::WarmupTooLong`] or
    /// [`OptimError::DecayTooLong`].
    pub fn new(config: ScheduleConfig) -> Result<Self, OptimError> {
        let setting = |name, value: String, expected| OptimError::Setting { name, value, expected };
        let ScheduleConfig { peak_lr, min_lr, warmup_steps, steps, decay_fraction, .. } = config;
        if !(peak_lr > 0.0 && peak_lr.is_finite()) {
            return Err(setting("peak_lr", peak_lr.to_string(), "a positive number"));
        }
        if !(min_lr >= 0.0 && min_lr.is_finite()) {
            return Err(setting("min_lr", min_lr.to_string(), "zero or a positive number"));
        }
        if min_lr > peak_lr {
            return Err(OptimError::MinAbovePeak { min_lr, peak_lr });
        }
        if steps == 0 {
            return Err(setting("steps", steps.to_string(), "at least 1"));
        }
        if warmup_steps > steps {
            return Err(OptimError::WarmupTooLong { warmup_steps, steps });
        }
        if !(decay_fraction > 0.0 && decay_fraction <= 1.0) {
            let expected = "a number above 0 and at most 1";
            return Err(setting("decay_fraction", decay_fraction.to_string(), expected));
        }
        let decay_start = match config.schedule {
            Schedule::Cosine | Schedule::Linear => warmup_steps,
            Schedule::Constant => steps,
            Schedule::Wsd => {
                let decay_steps = ((steps as f64 * decay_fraction).ceil() as u64).min(steps);
                if warmup_steps > steps - decay_steps {
                    return Err(OptimError::DecayTooLong { warmup_steps, decay_steps, steps });
                }
                steps - decay_steps
            }
        };
        Ok(Self { config, decay_start, decay_steps: steps - decay_start })
    }

    /// The numbers it was made of.
    pub fn config(&self) -> &ScheduleConfig {
        &self.config
    }

    /// The learning rate of the update with number `step`; the first is step 0.
    pub fn lr(&self, step: u64) -> f64 {
        let ScheduleConfig { peak_lr, min_lr, warmup_steps, steps, .. } = self.config;
        if step < warmup_steps {
            // The last warmup step gives `peak_lr` itself, not a rounding of it.
            return if step + 1 == warmup_steps {
                peak_lr
            } else {
                peak_lr * ((step + 1) as f64 / warmup_steps as f64)
            };
        }
        if self.config.schedule == Schedule::Constant || step <= self.decay_start && step < steps {
            return peak_lr;
        }
        if step >= steps {
            return min_lr;
        }
        let over = (step - self.decay_start) as f64 / self.decay_steps as f64;
        let left = match (self.config.schedule, self.config.decay_shape) {
            (Schedule::Cosine, _) => 0.5 * (1.0 + (std::f64::consts::PI * over).cos()),
            (Schedule::Wsd, DecayShape::OneMinusSqrt) => 1.0 - over.sqrt(),
            _ => 1.0 - over,
        };
        // Rounding may carry the sum past an end by one unit in the last place.
        (min_lr + (peak_lr - min_lr) * left).clamp(min_lr, peak_lr)
    }
}

/// Names of an enum as the configuration writes them, in both directions.
macro_rules! names {
    ($type:ident, $what:literal, $($name:literal => $value:ident),+) => {
        impl $type {
            /// All names, as the configuration writes them.
            pub const NAMES: &'static [&'static str] = &[$($name),+];
        }

        impl From<$type> for &'static str {
            fn from(value: $type) -> Self {
                match value {
                    $($type::$value => $name),+
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str((*self).into())
            }
        }

        impl FromStr for $type {
            type Err = OptimError;

            fn from_str(name: &str) -> Result<Self, OptimError> {
                match name {
                    $($name => Ok($type::$value),)+
                    _ => Err(unknown($what, name, $type::NAMES)),
                }
            }
        }

        impl TryFrom<String> for $type {
            type Error = OptimError;

            fn try_from(name: String) -> Result<Self, OptimError> {
                name.parse()
            }
        }
    };
}

names!(Schedule, "schedule", "cosine" => Cosine, "linear" => Linear, "wsd" => Wsd, "constant" => Constant);
names!(DecayShape, "decay shape", "1-sqrt" => OneMinusSqrt, "linear" => Linear);

fn unknown(what: &'static str, name: &str, known: &'static [&'static str]) -> OptimError {
    let lower = name.to_lowercase();
    let nearest = known
        .iter()
        .map(|&k| (strsim::damerau_levenshtein(&lower, k), k))
        .filter(|&(distance, k)| distance <= k.len() / 2)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, k)| k);
    OptimError::UnknownName { what, name: name.to_owned(), nearest, known }
}

#[cfg(test)]
mod tests;
