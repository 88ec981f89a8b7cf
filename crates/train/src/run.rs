//! The loop: update, record, evaluate, save, until the last step or a request to stop.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::tensor::Device;
use caravan_checkpoint::RunLock;
use caravan_model::Llama;
use caravan_optim::{AdamW, ParamGroups};
use caravan_tokenizer::Encode;

use crate::config::RunConfig;
use crate::data::{self, Data};
use crate::error::{Result, TrainError};
use crate::memory::peak_rss_bytes;
use crate::metrics::{Metrics, Row, draw_loss, read_rows};
use crate::observer::{Event, Observer};
use crate::plan::Plan;
use crate::report::{self, Report};
use crate::run_dir::RunDir;
use crate::state::{self, Position};
use crate::step::{StepSettings, for_inference, step, to_device};
use crate::validation;

/// How a run ended without an error.
#[derive(Debug)]
pub enum Outcome {
    /// All steps are done.
    Finished(Box<Report>),
    /// It was asked to stop, and saved.
    Stopped {
        /// Updates done.
        step: u64,
        /// Updates planned.
        steps: u64,
        /// The checkpoint to go on from.
        checkpoint: PathBuf,
    },
}

/// Starts a run in `dir`, which must be new or empty.
///
/// # Errors
/// Anything in [`TrainError`]; what was saved before the error stays.
pub fn train(
    config: RunConfig,
    device: &str,
    dir: &RunDir,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    let plan = Plan::new(config, device)?;
    let lock = dir.create()?;
    start(plan, dir, &lock, stop, observer)
}

/// Goes on with the run in `dir` from its newest checkpoint; from the start if there is none yet.
/// `change` may alter keys that are not part of the run's identity.
///
/// # Errors
/// As [`train`]; also if `change` alters the run's identity.
pub fn resume(
    dir: &RunDir,
    device: &str,
    change: impl FnOnce(RunConfig) -> Result<RunConfig>,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    let (lock, saved) = dir.resume()?;
    let config = change(saved.clone())?;
    if let Some((key, now, was)) = config.identity_changes(&saved).first() {
        return Err(TrainError::RunDir {
            path: dir.path().to_path_buf(),
            problem: format!("cannot go on with {key} = {now}: the run was started with {was}"),
            help: format!("leave {key} out to go on, or start a new run with --out"),
        });
    }
    let plan = Plan::new(config, device)?;
    start(plan, dir, &lock, stop, observer)
}

fn start(
    plan: Plan,
    dir: &RunDir,
    _lock: &RunLock,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    let data = data::prepare(&plan, observer)?;
    let plan = plan.with_vocab(data.tokenizer.vocab_size())?;
    dir.bind_shards(data.shards.dir())?;
    data.tokenizer.save_into(dir.path())?;
    data::write_whole(&dir.config(), plan.config.to_toml().as_bytes())?;
    observer.event(&Event::Planned(&plan));
    let device = plan.device.clone().autodiff();
    let model = Llama::init(&plan.model, plan.config.run.seed, plan.kernels, &device)?;
    let (model, optimizer, position) = match caravan_checkpoint::open_latest(&dir.checkpoints())? {
        Some(checkpoint) => {
            let restored = state::restore(&checkpoint, &plan, &data.tokenizer, model)?;
            observer.event(&Event::Note(&format!(
                "resumed at step {} from `{}`",
                restored.2.step,
                checkpoint.dir().display()
            )));
            restored
        }
        None => (model, state::new_optimizer(&plan)?, Position::default()),
    };
    let metrics = Metrics::open(dir.path(), position.step)?;
    let run = Run {
        plan: &plan,
        dir,
        data: &data,
        device,
        metrics,
        started: Instant::now(),
        before: position.elapsed_secs,
        saved: None,
        rate: None,
    };
    run.go(model, optimizer, position, stop, observer)
}

struct Run<'a> {
    plan: &'a Plan,
    dir: &'a RunDir,
    data: &'a Data,
    device: Device,
    metrics: Metrics,
    started: Instant,
    before: f64,
    saved: Option<(u64, PathBuf)>,
    rate: Option<f64>,
}

impl Run<'_> {
    fn go(
        mut self,
        mut model: Llama,
        mut optimizer: AdamW,
        mut position: Position,
        stop: &AtomicBool,
        observer: &mut dyn Observer,
    ) -> Result<Outcome> {
        let run = &self.plan.config.run;
        let mut batches = Arc::clone(&self.data.loader).prefetch(
            position.next_sequence,
            run.micro_batch,
            run.micro_batch as u64,
        );
        let groups = ParamGroups::default();
        while position.step < run.steps && !stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let first = position.next_sequence;
            let device = &self.device;
            let mask = self.plan.config.data.document_mask;
            let step_batches = (&mut batches)
                .take(self.plan.n_micro_batches)
                .collect::<std::result::Result<Vec<_>, _>>()?;
            let micro_batches =
                step_batches.iter().map(|(_, batch)| to_device(batch, mask, device));
            let settings = StepSettings {
                lr: self.plan.schedule.lr(position.step),
                weight_decay: self.plan.config.optim.weight_decay,
                groups: &groups,
                grad_clip: self.plan.config.optim.grad_clip,
                activations: self.plan.activations,
            };
            let outcome = match step(model, &mut optimizer, micro_batches, settings) {
                Ok((next, outcome)) => {
                    model = next;
                    outcome
                }
                Err((_, found)) => return Err(self.not_finite(position, found)),
            };
            position.step += 1;
            position.next_sequence = first + run.global_batch as u64;
            position.tokens += outcome.loss.tokens;
            position.elapsed_secs = self.elapsed();
            let mut row = Row {
                step: position.step,
                tokens: position.tokens,
                train_loss: Some(outcome.loss.mean()),
                lr: Some(settings.lr),
                grad_norm: Some(outcome.grad_norm),
                tokens_per_sec: Some(outcome.loss.tokens as f64 / begun.elapsed().as_secs_f64()),
                peak_rss_bytes: peak_rss_bytes(),
                elapsed_secs: position.elapsed_secs,
                ..Row::default()
            };
            let secs_left = self.secs_left(begun.elapsed().as_secs_f64(), position.step);
            observer.event(&Event::Step { row: &row, steps: run.steps, secs_left });
            let last = position.step == run.steps;
            if last || (run.eval_every > 0 && position.step.is_multiple_of(run.eval_every)) {
                self.evaluate(&model, &mut row, last, observer)?;
            }
            self.metrics.write(&row)?;
            position.elapsed_secs = self.elapsed();
            if last
                || (run.checkpoint_every > 0 && position.step.is_multiple_of(run.checkpoint_every))
            {
                self.save(&model, &optimizer, position, observer)?;
            }
        }
        drop(batches);
        if position.step < run.steps {
            let checkpoint = self.save(&model, &optimizer, position, observer)?;
            return Ok(Outcome::Stopped { step: position.step, steps: run.steps, checkpoint });
        }
        let report = self.finish(&model, position)?;
        Ok(Outcome::Finished(Box::new(report)))
    }

    /// Scores the validation text into `row`, and lets the model write.
    fn evaluate(
        &self,
        model: &Llama,
        row: &mut Row,
        last: bool,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let model = for_inference(model);
        let limit = if last { u64::MAX } else { self.plan.config.run.eval_tokens };
        if let Some(score) = validation::score(&model, self.plan, self.data, limit)? {
            row.val_loss = Some(score.nats / score.n_tokens as f64);
            row.val_bits_per_byte = Some(score.bits_per_byte());
            observer.event(&Event::Evaluated(row));
        }
        if !last {
            for sample in validation::samples(&model, self.plan, self.data, row.step)? {
                observer.event(&Event::Sample { prompt: &sample.prompt, text: &sample.text });
            }
        }
        Ok(())
    }

    fn save(
        &mut self,
        model: &Llama,
        optimizer: &AdamW,
        position: Position,
        observer: &mut dyn Observer,
    ) -> Result<PathBuf> {
        if let Some((step, path)) = &self.saved
            && *step == position.step
        {
            return Ok(path.clone());
        }
        let root = self.dir.checkpoints();
        let path = state::save(&root, self.plan, &self.data.tokenizer, model, optimizer, position)?;
        caravan_checkpoint::prune(&root, self.plan.config.run.keep_checkpoints, &|_| false)?;
        observer.event(&Event::Saved { step: position.step, path: &path });
        self.saved = Some((position.step, path.clone()));
        Ok(path)
    }

    fn finish(&self, model: &Llama, position: Position) -> Result<Report> {
        let model = for_inference(model);
        let rows = read_rows(self.dir.path())?;
        draw_loss(
            &rows,
            &format!("{} parameters", crate::plan::group(self.plan.model.param_count())),
            &self.dir.loss_svg(),
        )?;
        report::write(&model, self.plan, self.data, self.dir, &rows, position)
    }

    fn elapsed(&self) -> f64 {
        self.before + self.started.elapsed().as_secs_f64()
    }

    /// A running mean of the step time, so that one slow step does not scare anybody.
    fn secs_left(&mut self, secs: f64, step: u64) -> f64 {
        let rate = self.rate.map_or(secs, |rate| 0.9 * rate + 0.1 * secs);
        self.rate = Some(rate);
        rate * (self.plan.config.run.steps - step) as f64
    }

    fn not_finite(&self, position: Position, found: caravan_parallel::NotFinite) -> TrainError {
        let last = position.next_sequence + self.plan.config.run.global_batch as u64 - 1;
        let shards = self.data.shards.dir().display();
        TrainError::NotFinite {
            step: position.step + 1,
            what: found.what,
            value: found.value,
            first_sequence: position.next_sequence,
            last_sequence: last,
            documents: format!(
                "print it with `caravan data batch --run {} --step {}` (shards `{shards}`)",
                self.dir.path().display(),
                position.step + 1
            ),
            help: format!(
                "checkpoints up to step {} are intact; start again with a lower peak_lr or a longer warmup_steps",
                self.saved.as_ref().map_or(0, |(step, _)| *step)
            ),
        }
    }
}
