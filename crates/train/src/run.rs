//! The loop: update, record, evaluate, save, until the last step or a request to stop.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::tensor::Device;
use caravan_collective::{Communicator, Traffic};
use caravan_dataset::ShardSet;
use caravan_model::{Forward, Llama};
use caravan_optim::{AdamW, ParamGroups};
use caravan_parallel::{Engine, Mesh, NotFinite, StepSettings};
use caravan_tokenizer::Encode;

use crate::config::{RunConfig, RunSection};
use crate::data::{self, Data};
use crate::error::{Result, TrainError};
use crate::identity::Identity;
use crate::memory::peak_rss_bytes;
use crate::metrics::{Communication, Metrics, Row, draw_loss, read_rows};
use crate::observer::{Event, Observer};
use crate::plan::Plan;
use crate::ranks::Ranks;
use crate::report::{self, Report};
use crate::run_dir::RunDir;
use crate::stages::StagePlan;
use crate::state::{self, Position};
use crate::step::{for_inference, step_of, to_device};
use crate::validation;

/// How a run ended without an error.
#[derive(Debug)]
pub enum Outcome {
    /// All steps are done.
    Finished(Box<Report>),
    /// All steps are done, and the report is the first rank's.
    Assisted,
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

/// Starts a run in `dir`, which must be new or empty, on one rank.
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
    train_on(Communicator::alone(), config, device, dir, stop, observer)
}

/// Starts a run on all ranks of `world`, each of which calls this with the same arguments. Any rank's `stop` stops all.
/// Ranks on several machines see `dir` on one file system.
///
/// # Errors
/// As [`train`], on every rank: one that could go on tells what the first that cannot says. Ranks of another program or
/// with other settings than the first are refused.
pub fn train_on(
    world: Communicator,
    config: RunConfig,
    device: &str,
    dir: &RunDir,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    let ranks = Ranks::new(world.clone());
    let note = ranks.same(|| Identity::new("train", device).with(&config))?;
    tell(observer, note);
    let plan = ranks.agree(Plan::new(config, device))?;
    let mesh = ranks.agree(mesh(world, &plan))?;
    let _lock = ranks.first(|| dir.create())?;
    start(&plan, mesh, &ranks, dir, stop, observer)
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
    resume_on(Communicator::alone(), dir, device, change, stop, observer)
}

/// Goes on with the run in `dir` on all ranks of `world`, whatever the layout was that saved it.
///
/// # Errors
/// As [`resume`], on every rank.
pub fn resume_on(
    world: Communicator,
    dir: &RunDir,
    device: &str,
    change: impl FnOnce(RunConfig) -> Result<RunConfig>,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    let ranks = Ranks::new(world.clone());
    let note = ranks.same(|| Identity::new("train --resume", device))?;
    tell(observer, note);
    let _lock = ranks.first(|| dir.lock_to_resume())?;
    ranks.agree(dir.wait_until_seen(None))?;
    let plan = ranks.agree(plan_to_resume(dir, device, change))?;
    ranks.same(|| Identity::new("train --resume", device).with(&plan.config))?;
    let mesh = ranks.agree(mesh(world, &plan))?;
    start(&plan, mesh, &ranks, dir, stop, observer)
}

fn plan_to_resume(
    dir: &RunDir,
    device: &str,
    change: impl FnOnce(RunConfig) -> Result<RunConfig>,
) -> Result<Plan> {
    let saved = RunConfig::from_file(&dir.config())?;
    let config = change(saved.clone())?;
    if let Some((key, now, was)) = config.identity_changes(&saved).first() {
        return Err(TrainError::RunDir {
            path: dir.path().to_path_buf(),
            problem: format!("cannot go on with {key} = {now}: the run was started with {was}"),
            help: format!("leave {key} out to go on, or start a new run with --out"),
        });
    }
    Plan::new(config, device)
}

fn tell(observer: &mut dyn Observer, note: Option<String>) {
    if let Some(note) = note {
        observer.event(&Event::Note(&note));
    }
}

fn mesh(world: Communicator, plan: &Plan) -> Result<Mesh> {
    Ok(Mesh::new(world, &plan.layout)?)
}

fn start(
    plan: &Plan,
    mesh: Mesh,
    ranks: &Ranks,
    dir: &RunDir,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    let data = ranks.first_then_others(|| data::prepare(plan, observer))?;
    // Their name is a hash of text and tokenizer.
    let sets = [&data.shards].into_iter().chain(data.units.iter().map(|(_, set)| set));
    let name = |set: &Arc<ShardSet>| {
        format!("`{}`", set.dir().file_name().unwrap_or_default().to_string_lossy())
    };
    let mut names: Vec<String> = sets.map(name).collect();
    names.dedup();
    ranks.equal(
        &format!("the shards {}", names.join(", ")),
        "give all ranks the same text and tokenizer",
    )?;
    let plan = ranks.agree(plan.clone().with_vocab(data.tokenizer.vocab_size()))?;
    ranks.first(|| {
        dir.check_shards(data.shards.dir())?;
        // First, so that a run that is killed from here on is one to resume.
        data::write_whole(&dir.config(), plan.config.to_toml().as_bytes())?;
        dir.note_shards(data.shards.dir())?;
        Ok(data.tokenizer.save_into(dir.path())?)
    })?;
    ranks.agree(dir.wait_until_seen(Some(&plan.config.to_toml())))?;
    observer.event(&Event::Planned(&plan));
    let device = plan.device.clone().autodiff();
    let (seed, kernels) = (plan.config.run.seed, plan.kernels);
    let mut engine = Engine::init(&plan.model, seed, kernels, &device, plan.layout, mesh)?;
    let opened = caravan_checkpoint::open_latest_lazy(&dir.checkpoints());
    let (optimizer, position) = match ranks.agree(opened.map_err(TrainError::from))? {
        Some(checkpoint) => {
            let restored = state::restore(&checkpoint, &plan, &data.tokenizer, &mut engine);
            let restored = restored.map_err(|e| state::with_way_out(e, &dir.checkpoints()));
            let (optimizer, position) = ranks.agree(restored)?;
            observer.event(&Event::Note(&format!(
                "resumed at step {} from `{}`",
                position.step,
                checkpoint.dir().display()
            )));
            (optimizer, position)
        }
        None => (state::new_optimizer(&plan)?, Position::default()),
    };
    let metrics = ranks.first(|| Metrics::open(dir.path(), position.step))?;
    let run = Run {
        plan: &plan,
        ranks,
        dir,
        data: &data,
        device,
        metrics,
        started: Instant::now(),
        before: position.elapsed_secs,
        saved: None,
        rate: None,
    };
    run.go(engine, optimizer, position, stop, observer)
}

/// Batches that are read ahead.
type Feed = caravan_dataset::Prefetch;

struct Run<'a> {
    plan: &'a Plan,
    ranks: &'a Ranks,
    dir: &'a RunDir,
    data: &'a Data,
    device: Device,
    /// Written by the first rank.
    metrics: Option<Metrics>,
    started: Instant,
    before: f64,
    saved: Option<(u64, PathBuf)>,
    rate: Option<f64>,
}

impl Run<'_> {
    fn go(
        mut self,
        mut engine: Engine,
        mut optimizer: AdamW,
        mut position: Position,
        stop: &AtomicBool,
        observer: &mut dyn Observer,
    ) -> Result<Outcome> {
        let run = &self.plan.config.run;
        let groups = ParamGroups::default();
        let mut feed: Option<Feed> = None;
        while position.step < run.steps && !self.ranks.any(stop.load(Ordering::Relaxed)) {
            let begun = Instant::now();
            let stage = self.plan.stage_after(position.step);
            if position.step == stage.first_step {
                position.next_sequence = 0;
                feed = None;
            }
            let n = stage.n_micro_batches;
            let mine = engine.micro_batches(n);
            let batches =
                feed.get_or_insert_with(|| self.feed(position.next_sequence, stage, &mine));
            let read = batches.take(mine.len());
            let read = read.collect::<std::result::Result<Vec<_>, _>>();
            let read = if self.plan.layout.world() == 1 {
                read?
            } else {
                self.ranks.agree(read.map_err(TrainError::from))?
            };
            let mask = self.plan.config.data.document_mask;
            let micro_batches: Vec<_> =
                read.iter().map(|(_, batch)| to_device(batch, mask, &self.device)).collect();
            let settings = StepSettings {
                lr: self.plan.schedule.lr(position.step),
                weight_decay: self.plan.config.optim.weight_decay,
                groups: &groups,
                grad_clip: self.plan.config.optim.grad_clip,
                activations: self.plan.activations,
            };
            let before = engine.traffic();
            let outcome = step_of(&mut engine, &mut optimizer, n, &micro_batches, settings)
                .map_err(|found| self.not_finite(position, found))?;
            let secs = self.ranks.largest(begun.elapsed().as_secs_f64());
            position.step += 1;
            position.next_sequence += stage.config.run.global_batch as u64;
            position.tokens += outcome.loss.tokens;
            position.elapsed_secs = self.elapsed();
            let mut row = Row {
                step: position.step,
                stage: stage.name.clone(),
                tokens: position.tokens,
                train_loss: Some(outcome.loss.mean()),
                lr: Some(settings.lr),
                grad_norm: Some(outcome.grad_norm),
                tokens_per_sec: Some(outcome.loss.tokens as f64 / secs),
                peak_rss_bytes: peak_rss_bytes(),
                elapsed_secs: position.elapsed_secs,
                communication: communication(&before, &engine.traffic()),
                ..Row::default()
            };
            let secs_left = self.secs_left(secs, position.step);
            observer.event(&Event::Step { row: &row, steps: run.steps, secs_left });
            let last = position.step == run.steps;
            if last || (run.eval_every > 0 && position.step.is_multiple_of(run.eval_every)) {
                let evaluated = self.evaluate(&engine, &mut row, last, observer);
                self.ranks.agree(evaluated)?;
            }
            let written = self.metrics.as_mut().map_or(Ok(()), |metrics| metrics.write(&row));
            self.ranks.agree(written)?;
            position.elapsed_secs = self.elapsed();
            if last
                || (run.checkpoint_every > 0 && position.step.is_multiple_of(run.checkpoint_every))
            {
                self.save(&engine, &optimizer, position, observer)?;
            }
        }
        drop(feed);
        if position.step < run.steps {
            let checkpoint = self.save(&engine, &optimizer, position, observer)?;
            return Ok(Outcome::Stopped { step: position.step, steps: run.steps, checkpoint });
        }
        let whole = engine.into_whole();
        match self.ranks.first(|| self.finish(whole, position))? {
            Some(report) => Ok(Outcome::Finished(Box::new(report))),
            None => Ok(Outcome::Assisted),
        }
    }

    /// The micro-batches of this rank in a stage, from a sequence on.
    fn feed(&self, next: u64, stage: &StagePlan, mine: &[u64]) -> Feed {
        let index = self.plan.stages.iter().position(|other| other.first_step == stage.first_step);
        let loader = &self.data.loaders[index.expect("a stage of the plan")];
        let run = &stage.config.run;
        Arc::clone(loader).prefetch(sequences(next, run, mine), run.micro_batch)
    }

    /// Scores the validation text into `row`, and lets the model write.
    fn evaluate(
        &self,
        engine: &Engine,
        row: &mut Row,
        last: bool,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        if !engine.is_read_here() {
            return Ok(());
        }
        let whole = engine.whole().map(|model| for_inference(&model));
        let reader = engine.reader();
        let model: &dyn Forward = match &whole {
            Some(model) => model,
            None => &reader,
        };
        let limit = if last { u64::MAX } else { self.plan.config.run.eval_tokens };
        if let Some(score) = validation::score(model, self.plan, self.data, limit)? {
            row.val_loss = Some(score.nats / score.n_tokens as f64);
            row.val_bits_per_byte = Some(score.bits_per_byte());
            observer.event(&Event::Evaluated(row));
        }
        if !last {
            for sample in validation::samples(model, self.plan, self.data, row.step)? {
                observer.event(&Event::Sample { prompt: &sample.prompt, text: &sample.text });
            }
        }
        Ok(())
    }

    fn save(
        &mut self,
        engine: &Engine,
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
        let tokenizer = &self.data.tokenizer;
        let path =
            state::save(&root, self.plan, tokenizer, engine, optimizer, position, self.ranks)?;
        let keep = self.plan.config.run.keep_checkpoints;
        self.ranks.first(|| Ok(caravan_checkpoint::prune(&root, keep, &|_| false)?))?;
        observer.event(&Event::Saved { step: position.step, path: &path });
        self.saved = Some((position.step, path.clone()));
        Ok(path)
    }

    /// The report; of a model that was spread over ranks the first rank reads back what was just saved.
    fn finish(&self, whole: Option<Llama>, position: Position) -> Result<Report> {
        let model = match whole {
            Some(model) => for_inference(&model),
            None => state::whole_model(&self.dir.checkpoints(), self.plan)?,
        };
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

    fn not_finite(&self, position: Position, found: NotFinite) -> TrainError {
        let stage = self.plan.stage_after(position.step);
        let last = position.next_sequence + stage.config.run.global_batch as u64 - 1;
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

/// First sequences of a rank's micro-batches, step after step: those with the indices `mine` of each step.
fn sequences(
    next: u64,
    run: &RunSection,
    mine: &[u64],
) -> impl Iterator<Item = u64> + Send + use<> {
    let (rows, step, mine) = (run.micro_batch as u64, run.global_batch as u64, mine.to_vec());
    let steps = std::iter::successors(Some(next), move |first| first.checked_add(step));
    steps
        .flat_map(move |first| mine.clone().into_iter().map(move |i| first.checked_add(i * rows)))
        .map_while(|sequence| sequence)
}

/// What was sent between two counts, by axis.
fn communication(
    before: &[(&'static str, Traffic)],
    after: &[(&'static str, Traffic)],
) -> BTreeMap<String, Communication> {
    let difference = |(before, after): (&(&str, Traffic), &(&str, Traffic))| {
        let (axis, before, after) = (after.0.to_owned(), before.1, after.1);
        let bytes = after.bytes_sent - before.bytes_sent;
        (axis, Communication { bytes, secs: after.secs - before.secs })
    };
    before.iter().zip(after).map(difference).collect()
}
