//! From a configuration to a plan: everything that can be refused is refused here, before any
//! text is read or memory taken.

use std::fmt::Write as _;

use burn::tensor::Device;
use caravan_dataset::Packing;
use caravan_model::Kernels;
use caravan_model::LlamaConfig;
use caravan_optim::{AdamWConfig, LrSchedule, Schedule, ScheduleConfig};
use caravan_parallel::{Activations, Layout, StepShape, expected_traffic};

use crate::check;
use crate::config::RunConfig;
use crate::error::{Result, TrainError};
use crate::memory::{Memory, parse_bytes, show_bytes};
use crate::stages::{self, StagePlan};

/// A validated run, but for the vocabulary, which the tokenizer brings.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The configuration with every default filled in.
    pub config: RunConfig,
    /// The architecture; `vocab_size` is the tokenizer's once [`Plan::with_vocab`] has run.
    pub model: LlamaConfig,
    /// Where it runs, without autodiff.
    pub device: Device,
    /// The device as the user names it.
    pub device_name: String,
    /// Operator implementations.
    pub kernels: Kernels,
    /// Keep or recompute.
    pub activations: Activations,
    /// Packing of documents into sequences.
    pub packing: Packing,
    /// Learning rate as a function of the step.
    pub schedule: LrSchedule,
    /// Moments and epsilon.
    pub adamw: AdamWConfig,
    /// How the work is split over ranks.
    pub layout: Layout,
    /// At least one, in order.
    pub stages: Vec<StagePlan>,
    /// Predicted bytes.
    pub memory: Memory,
}

impl Plan {
    /// Checks `config` for `device` (`flex`, `tch`, `cuda:0`, ...).
    ///
    /// # Errors
    /// Any setting that cannot work, with what to change.
    pub fn new(config: RunConfig, device_name: &str) -> Result<Self> {
        let device = caravan_model::device::parse(device_name)?;
        let mut config = config.with_sums_of_stages()?;
        check::run(&config)?;
        let model = model_config(&config)?;
        let kernels = kernels(&config)?;
        let packing = choice(
            "packing",
            &config.data.packing,
            &[("concat", Packing::ConcatSplit), ("best_fit", Packing::BestFit)],
        )?;
        let activations =
            if config.run.recompute { Activations::Recompute } else { Activations::Keep };
        let steps = config.run.steps;
        let warmup = *config.optim.warmup_steps.get_or_insert((steps / 50).min(1000));
        let min_lr = *config.optim.min_lr.get_or_insert(config.optim.peak_lr / 10.0);
        let stages = stages::plan(&config, &model)?;
        let layout = check::layout(&stages[0].config, &model)?;
        let schedule = LrSchedule::new(ScheduleConfig {
            schedule: config.optim.schedule.parse::<Schedule>()?,
            peak_lr: config.optim.peak_lr,
            min_lr,
            warmup_steps: warmup,
            steps,
            ..ScheduleConfig::default()
        })?;
        let adamw = AdamWConfig {
            beta1: config.optim.beta1,
            beta2: config.optim.beta2,
            ..AdamWConfig::default()
        };
        adamw.validate()?;
        for (key, value) in
            [("weight_decay", config.optim.weight_decay), ("grad_clip", config.optim.grad_clip)]
        {
            if !(value >= 0.0 && value.is_finite()) {
                return Err(TrainError::plan(
                    format!("{key} = {value} is not a number from 0 up"),
                    format!("set {key} to 0 or more, e.g. {key}=1.0 for clipping, 0.1 for decay"),
                ));
            }
        }
        if config.optim.grad_clip == 0.0 {
            return Err(TrainError::plan(
                "grad_clip = 0 would erase every gradient",
                "set grad_clip=1.0, or a very large number to clip nothing",
            ));
        }
        let memory = stages::memory(&model, &stages);
        Ok(Self {
            config,
            model,
            device,
            device_name: device_name.to_owned(),
            kernels,
            activations,
            packing,
            schedule,
            adamw,
            layout,
            stages,
            memory,
        })
    }

    /// Fixes the vocabulary and predicts the memory again.
    ///
    /// # Errors
    /// The architecture cannot be built, or it needs more than `memory_limit`.
    pub fn with_vocab(mut self, vocab_size: usize) -> Result<Self> {
        self.model.vocab_size = vocab_size;
        self.model.validate()?;
        self.memory = stages::memory(&self.model, &self.stages);
        if let Some(text) = &self.config.run.memory_limit {
            let limit = parse_bytes(text)?;
            if self.memory.total() > limit {
                return Err(TrainError::plan(
                    format!(
                        "the run is predicted to need {}, more than memory_limit = {text}",
                        show_bytes(self.memory.total())
                    ),
                    "lower micro_batch, set recompute=true, choose a smaller model, or raise memory_limit",
                ));
            }
        }
        Ok(self)
    }

    /// The stage of the update that comes after `step` updates.
    pub fn stage_after(&self, step: u64) -> &StagePlan {
        let begun = self.stages.iter().rev().find(|stage| stage.first_step <= step);
        begun.expect("the first stage begins with the run")
    }

    /// The plan as it is printed before training.
    pub fn describe(&self) -> String {
        let (run, m) = (&self.config.run, &self.model);
        let mut out = String::new();
        let mut line = |name: &str, text: String| {
            let _ = writeln!(out, "  {name:<12} {text}");
        };
        let tied = if m.tie_embeddings { ", tied embeddings" } else { "" };
        line(
            "model",
            format!(
                "{} parameters: {} layers, d_model {}, {} heads ({} kv) of {}, d_ff {}, vocabulary {}{tied}",
                group(m.param_count()),
                m.n_layers,
                m.d_model,
                m.n_heads,
                m.n_kv_heads,
                m.head_dim,
                m.d_ff,
                m.vocab_size
            ),
        );
        let parts: Vec<String> = m
            .param_breakdown()
            .iter()
            .filter(|(_, n)| *n > 0)
            .map(|(name, n)| format!("{name} {}", group(*n)))
            .collect();
        line("", parts.join(", "));
        for stage in &self.stages {
            let (shape, n) = (&stage.config.run, stage.n_micro_batches);
            let text = format!(
                "{} = {n} micro-batches x {} sequences x {} tokens",
                group(stage.tokens_per_step()),
                shape.micro_batch,
                shape.seq_len
            );
            match &stage.name {
                None => line("tokens/step", text),
                Some(name) => {
                    let (unit, steps) = (stage.unit.name(), group(shape.steps));
                    line("stage", format!("{name}: by the {unit}, {steps} steps of {text}"));
                }
            }
        }
        let tokens: u64 = self.stages.iter().map(StagePlan::tokens).sum();
        line("steps", format!("{} ({} tokens)", group(run.steps), group(tokens)));
        line(
            "schedule",
            format!(
                "{}: {} warm-up steps to {}, then to {}",
                self.config.optim.schedule,
                self.config.optim.warmup_steps.unwrap_or_default(),
                self.config.optim.peak_lr,
                self.config.optim.min_lr.unwrap_or_default()
            ),
        );
        line(
            "memory",
            format!(
                "about {} predicted: {}",
                show_bytes(self.memory.total()),
                self.memory.describe()
            ),
        );
        if self.layout.world() > 1 {
            line("ranks", format!("{}: {}", self.layout.world(), self.layout.describe()));
            let first = &self.stages[0];
            let step = StepShape {
                n_micro_batches: first.n_micro_batches,
                rows: first.config.run.micro_batch,
                seq_len: first.config.run.seq_len,
                activations: self.activations,
            };
            let sent = expected_traffic(&self.layout, m, step, 0);
            let sent: Vec<String> =
                sent.iter().map(|(axis, bytes)| format!("{axis} {}", show_bytes(*bytes))).collect();
            line("", format!("rank 0 sends in a step: {}", sent.join(", ")));
        }
        line(
            "device",
            format!(
                "{}, {}, {} kernels, activations {}, seed {}",
                self.device_name,
                run.dtype,
                run.kernels,
                if run.recompute { "recomputed" } else { "kept" },
                run.seed
            ),
        );
        out
    }
}

/// The arithmetic that `kernels` and `dtype` ask for.
fn kernels(config: &RunConfig) -> Result<Kernels> {
    let fused = choice("kernels", &config.run.kernels, &[("fused", true), ("reference", false)])?;
    let bf16 = choice("dtype", &config.run.dtype, &[("f32", false), ("bf16", true)])?;
    match (fused, bf16) {
        (true, true) => Ok(Kernels::FusedBf16),
        (true, false) => Ok(Kernels::Fused),
        (false, false) => Ok(Kernels::Reference),
        (false, true) => Err(TrainError::plan(
            "dtype = \"bf16\" is a way of the fused kernels, but kernels = \"reference\""
                .to_owned(),
            "leave out kernels=reference, or set dtype=f32",
        )),
    }
}

/// `1234567` as `1,234,567`.
pub fn group(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

fn model_config(config: &RunConfig) -> Result<LlamaConfig> {
    let m = &config.model;
    let mut model = caravan_model::preset(m.preset.as_deref().unwrap_or("3m"))?;
    // Sizes that follow from others do so again when one of them is changed.
    let reshaped = m.d_model.is_some() || m.n_heads.is_some();
    for (field, value) in [
        (&mut model.n_layers, m.n_layers),
        (&mut model.d_model, m.d_model),
        (&mut model.n_heads, m.n_heads),
        (&mut model.d_ff, m.d_ff),
    ] {
        if let Some(value) = value {
            *field = value;
        }
    }
    if reshaped {
        if model.n_heads == 0 {
            return Err(TrainError::plan("n_heads = 0", "set n_heads to 1 or more"));
        }
        if m.head_dim.is_none() && !model.d_model.is_multiple_of(model.n_heads) {
            return Err(TrainError::plan(
                format!(
                    "d_model = {} is not a multiple of n_heads = {}",
                    model.d_model, model.n_heads
                ),
                "change one of them, or set head_dim yourself",
            ));
        }
        model.head_dim = model.d_model / model.n_heads;
        if m.n_heads.is_some() {
            model.n_kv_heads = model.n_heads;
        }
    }
    model.n_kv_heads = m.n_kv_heads.unwrap_or(model.n_kv_heads);
    model.head_dim = m.head_dim.unwrap_or(model.head_dim);
    model.rope_theta = m.rope_theta.unwrap_or(model.rope_theta);
    model.init_std = m.init_std.unwrap_or(model.init_std);
    model.tie_embeddings = m.tie_embeddings.unwrap_or(model.tie_embeddings);
    model.max_seq_len = config.run.seq_len;
    model.vocab_size = config.data.vocab_size.unwrap_or(model.vocab_size);
    model.validate()?;
    Ok(model)
}

fn choice<T: Copy>(key: &str, value: &str, known: &[(&str, T)]) -> Result<T> {
    known.iter().find(|(name, _)| *name == value).map(|(_, v)| *v).ok_or_else(|| {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        TrainError::plan(
            format!("{key} = \"{value}\" is unknown"),
            format!("choose one of: {}", names.join(", ")),
        )
    })
}
