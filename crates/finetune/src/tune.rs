//! The loop of every kind of fine-tuning: updates, measurements, the best weights kept, killed anywhere and resumed.
//!
//! ```text
//! TrainSet::micro_batch --Engine::step--> weights --Job::measure--> is it the best? --save_engine--> STATE/step-N
//! ```
//!
//! After every measurement the state is saved; the newest and the best checkpoint stay. A run that goes on from one has the
//! bits of a run that was not interrupted.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::tensor::Device;
use caravan_checkpoint::{Checkpoint, Meta};
use caravan_collective::Communicator;
use caravan_model::{Forward, Llama};
use caravan_optim::{AdamW, AdamWConfig, LrSchedule, Placement, Schedule, ScheduleConfig};
use caravan_parallel::{Activations, Engine, Layout, Mesh, MicroBatch, StepSettings, tensor};
use caravan_train::{Ranks, for_inference, load_parameters, restore_engine, save_engine, step_of};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{FinetuneError, Result};
use crate::groups;
use crate::order::Order;
use crate::packing::{Encoded, RowShape, pack};
use crate::settings::Settings;
use crate::steps::Steps;

/// Where a run keeps its state, with whom it works, and who may stop it.
#[derive(Debug)]
pub struct Session<'a> {
    /// Folder of the checkpoints. Where it holds some of the same run, that is gone on with.
    pub state: &'a Path,
    /// All ranks; each is given the same model, examples and settings.
    pub world: Communicator,
    /// Set to end after the update that is being made.
    pub stop: &'a AtomicBool,
}

/// How a run ended without an error.
#[derive(Debug)]
pub enum Ended<T> {
    /// All updates are done, or enough of them.
    Finished(Box<T>),
    /// All updates are done; the first rank has the result.
    Assisted,
    /// It was asked to stop, and saved.
    Stopped {
        /// Updates done.
        step: u64,
        /// Updates planned.
        steps: u64,
    },
}

/// What happens while a model is trained, at every measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress<S> {
    /// Updates done.
    pub step: u64,
    /// Updates of the whole run.
    pub steps: u64,
    /// Mean loss since the last report, in nats per target.
    pub train_loss: f64,
    /// Learning rate of the last update.
    pub lr: f64,
    /// Scores on the development set.
    pub scores: S,
    /// Whether these are the best so far.
    pub is_best: bool,
    /// Since the start, in seconds, interruptions left out.
    pub secs: f64,
}

/// What is trained for.
pub(crate) trait Job {
    /// What a measurement gives.
    type Scores: Clone + Serialize + DeserializeOwned;

    /// What it is trained on.
    fn train_set(&mut self) -> &mut TrainSet;

    /// Measures on the development set.
    fn measure(&self, model: &dyn Forward) -> Self::Scores;

    /// What is to become large.
    fn value(&self, scores: &Self::Scores) -> f64;
}

/// Examples to train on, the order in which they come, and the rows they are packed into.
#[derive(Debug)]
pub(crate) struct TrainSet {
    pub(crate) examples: Vec<Encoded>,
    pub(crate) order: Order,
    pub(crate) rows: RowShape,
}

impl TrainSet {
    /// Rows for the examples at `range` in the order of `epoch`.
    fn micro_batch(&mut self, epoch: u64, range: Range<usize>, device: &Device) -> MicroBatch {
        let chosen = self.order.of(epoch)[range].iter().map(|i| &self.examples[*i]);
        pack(&chosen.collect::<Vec<_>>(), self.rows).micro_batch(device)
    }
}

/// A model that was trained, on the first rank.
#[derive(Debug)]
pub struct Outcome<S> {
    /// The model as it was when the development set said it was best; plain, with its adapters beside the weights.
    pub model: Llama,
    /// The scores then.
    pub scores: S,
    /// The update after which it was.
    pub best_step: u64,
    /// Updates done.
    pub steps: u64,
    /// Tokens that a row may have.
    pub seq_len: usize,
}

/// Where a run stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Position<S> {
    step: u64,
    best: Option<(u64, S)>,
    since_best: u64,
    nats: f64,
    targets: u64,
    secs: f64,
    /// The last measurement, which whoever was killed may not have told.
    told: Option<Progress<S>>,
}

/// Trains `model`, whose frozen parameters are so already. `identity` is what has to be the same to go on; `layout` was
/// checked. Called by all ranks; the first one's `on_progress` is called after every measurement, and when a run goes on for the
/// last one again.
pub(crate) fn tune<J: Job>(
    job: &mut J,
    model: Llama,
    settings: &Settings,
    layout: Layout,
    identity: &str,
    session: &Session<'_>,
    on_progress: &mut dyn FnMut(&Progress<J::Scores>) -> Result<()>,
) -> Result<Ended<Outcome<J::Scores>>> {
    let ranks = Ranks::new(session.world.clone());
    let help = "give all ranks the same model, examples and settings";
    ranks.equal(&format!("a run of {identity}"), help)?;
    // A rank that will not have all of the model in the end needs what it began with.
    let base = (layout.world() > 1 && ranks.is_first()).then(|| for_inference(&model));
    let groups = groups::of(&model, settings);
    let mesh =
        Mesh::new(session.world.clone(), &layout).map_err(caravan_train::TrainError::from)?;
    let device = model.device();
    let model = tensor::cut(model, &mesh.tensor, layout.sequence_parallel)
        .map_err(caravan_parallel::ParallelError::from)
        .map_err(caravan_train::TrainError::from)?;
    let mut engine = Engine::new(model, layout, mesh);
    let optimizer = AdamW::new(AdamWConfig::default(), placement(&device))?;
    let (mut optimizer, mut at) = begin(&mut engine, optimizer, identity, session, &ranks)?;

    let plan = Steps::new(job.train_set().examples.len(), settings);
    let schedule = LrSchedule::new(ScheduleConfig {
        schedule: Schedule::Linear,
        peak_lr: settings.peak_lr,
        min_lr: 0.0,
        warmup_steps: ((plan.steps as f64 * settings.warmup) as u64)
            .min(plan.steps.saturating_sub(1)),
        steps: plan.steps,
        ..ScheduleConfig::default()
    })?;
    if let Some(progress) = &at.told
        && !tell(progress, &ranks, on_progress)?
    {
        return Ok(Ended::Assisted);
    }
    let (begun, before) = (Instant::now(), at.secs);
    while at.step < plan.steps && !plan.is_enough(at.since_best) {
        if ranks.any(session.stop.load(Ordering::Relaxed)) {
            save(&engine, &optimizer, &at, identity, session, &ranks)?;
            return Ok(Ended::Stopped { step: at.step, steps: plan.steps });
        }
        let lr = schedule.lr(at.step);
        let update = StepSettings {
            lr,
            weight_decay: settings.weight_decay,
            groups: &groups,
            grad_clip: settings.grad_clip,
            activations: Activations::Keep,
        };
        let (epoch, parts) = plan.micro_batches(at.step);
        let mine = engine.micro_batches(parts.len());
        let set = job.train_set();
        let mut batch = |i: &u64| set.micro_batch(epoch, parts[*i as usize].clone(), &device);
        let batches: Vec<MicroBatch> = mine.iter().map(&mut batch).collect();
        let outcome = step_of(&mut engine, &mut optimizer, parts.len(), &batches, update);
        let outcome = outcome.map_err(|found| FinetuneError::NotFinite {
            step: at.step + 1,
            what: found.what,
            value: found.value,
        })?;
        at.nats += outcome.loss.nats;
        at.targets += outcome.loss.tokens;
        at.step += 1;
        at.secs = before + begun.elapsed().as_secs_f64();
        if !plan.is_measured(at.step) {
            continue;
        }
        let scores = measured(job, &engine, &ranks);
        let value = job.value(&scores);
        let is_best = at.best.as_ref().is_none_or(|(_, best)| value > job.value(best));
        at.secs = before + begun.elapsed().as_secs_f64();
        let progress = Progress {
            step: at.step,
            steps: plan.steps,
            train_loss: at.nats / at.targets.max(1) as f64,
            lr,
            scores: scores.clone(),
            is_best,
            secs: at.secs,
        };
        (at.nats, at.targets) = (0.0, 0);
        if is_best {
            (at.best, at.since_best) = (Some((at.step, scores)), 0);
        } else {
            at.since_best += 1;
        }
        at.told = Some(progress.clone());
        save(&engine, &optimizer, &at, identity, session, &ranks)?;
        // After the state is safe: what is told has happened.
        if !tell(&progress, &ranks, on_progress)? {
            return Ok(Ended::Assisted);
        }
    }
    if !ranks.is_first() {
        return Ok(Ended::Assisted);
    }
    let (best_step, scores) = at.best.expect("the last update is measured");
    let model = match base {
        Some(base) => base,
        None => for_inference(&engine.into_whole().expect("one rank holds all of the model")),
    };
    let model = match best_step == at.step && layout.world() == 1 {
        true => model,
        false => with_weights_of(model, session.state, best_step)?,
    };
    let seq_len = job.train_set().rows.max;
    Ok(Ended::Finished(Box::new(Outcome { model, scores, best_step, steps: at.step, seq_len })))
}

/// Tells the first rank's caller, and all ranks whether that went well.
fn tell<S>(
    progress: &Progress<S>,
    ranks: &Ranks,
    on_progress: &mut dyn FnMut(&Progress<S>) -> Result<()>,
) -> Result<bool> {
    let told = if ranks.is_first() { on_progress(progress) } else { Ok(()) };
    let failed = ranks.any(told.is_err());
    told.map(|()| !failed)
}

fn begin<S: DeserializeOwned>(
    engine: &mut Engine,
    optimizer: AdamW,
    identity: &str,
    session: &Session<'_>,
    ranks: &Ranks,
) -> Result<(AdamW, Position<S>)> {
    let opened = caravan_checkpoint::open_latest_lazy(session.state);
    let Some(checkpoint) = ranks.agree(opened.map_err(caravan_train::TrainError::from))? else {
        let (step, since_best, nats, targets, secs) = (0, 0, 0.0, 0, 0.0);
        let at = Position { step, best: None, since_best, nats, targets, secs, told: None };
        return Ok((optimizer, at));
    };
    let file = |problem: &str| FinetuneError::File {
        path: checkpoint.dir().to_owned(),
        problem: problem.to_owned(),
        help: "give the command that began the run, or a new folder".to_owned(),
    };
    if checkpoint.manifest().config != identity {
        return Err(file("is of a run with another model, other examples or other settings"));
    }
    let at: Position<S> = serde_json::from_value(checkpoint.manifest().data.clone())
        .map_err(|e| file(&format!("its position cannot be read: {e}")))?;
    let restored = restore_engine(&checkpoint, engine, optimizer, at.step);
    Ok((ranks.agree(restored)?, at))
}

fn save<S: Serialize>(
    engine: &Engine,
    optimizer: &AdamW,
    at: &Position<S>,
    identity: &str,
    session: &Session<'_>,
    ranks: &Ranks,
) -> Result<()> {
    let root = session.state;
    let meta = Meta {
        config: identity.into(),
        tokenizer_hash: String::new(),
        data: serde_json::to_value(at).expect("a position is JSON"),
        state: serde_json::Value::Null,
    };
    ranks.first(|| {
        std::fs::create_dir_all(root).map_err(caravan_train::TrainError::io("making", root))
    })?;
    save_engine(root, at.step, &meta, engine, optimizer, ranks)?;
    let best = at.best.as_ref().map(|(step, _)| *step);
    ranks.first(|| Ok(caravan_checkpoint::prune(root, 1, &|step| Some(step) == best)?))?;
    Ok(())
}

/// The scores, on every rank.
fn measured<J: Job>(job: &J, engine: &Engine, ranks: &Ranks) -> J::Scores {
    let mut told = Vec::new();
    if engine.is_read_here() {
        let whole = engine.whole().map(|model| for_inference(&model));
        let reader = engine.reader();
        let model: &dyn Forward = match &whole {
            Some(model) => model,
            None => &reader,
        };
        told = serde_json::to_vec(&job.measure(model)).expect("scores are JSON");
    }
    serde_json::from_slice(&ranks.tell(&told)).expect("the first rank measures")
}

/// The model with what the checkpoint of `step` holds; what was frozen is not in it.
fn with_weights_of(model: Llama, root: &Path, step: u64) -> Result<Llama> {
    let dir = caravan_checkpoint::step_dir(root, step);
    let checkpoint = Checkpoint::open(&dir).map_err(caravan_train::TrainError::from)?;
    let saved: BTreeSet<&str> =
        checkpoint.manifest().tensors.iter().map(|tensor| tensor.path.as_str()).collect();
    let is_saved = |path: &str| saved.contains(&*format!("model/{path}"));
    Ok(load_parameters(model, &checkpoint, &is_saved)?)
}

fn placement(device: &Device) -> Placement {
    match format!("{device:?}").contains("Flex") {
        true => Placement::Host,
        false => Placement::Device,
    }
}
