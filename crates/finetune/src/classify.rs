//! Training a classifier, measuring it, and asking it.

use std::time::Instant;

use burn::tensor::Device;
use caravan_model::{Forward as _, Llama};
use caravan_optim::{
    AdamW, AdamWConfig, LrSchedule, ParamGroups, Placement, Schedule, ScheduleConfig, matches,
};
use caravan_parallel::{Activations, Engine, StepSettings};
use caravan_tokenizer::Encode;
use caravan_train::step_of;

use crate::encoding::{encode, fitted, marks};
use crate::error::{FinetuneError, Result};
use crate::examples::Example;
use crate::packing::{Encoded, pack};
use crate::scores::Scores;
use crate::settings::{Settings, wrong};

/// Rows of a forward pass when measuring.
const ROWS: usize = 8;

/// What happens while a classifier is trained.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// Updates done, and in all.
    pub step: u64,
    /// Updates of the whole run.
    pub steps: u64,
    /// Mean loss since the last report, in nats per example.
    pub train_loss: f64,
    /// Learning rate of the last update.
    pub lr: f64,
    /// Scores on the development set, where they were measured.
    pub scores: Option<Scores>,
    /// Whether these are the best so far.
    pub is_best: bool,
    /// Since the start, in seconds.
    pub secs: f64,
}

/// A trained classifier.
#[derive(Debug)]
pub struct Outcome {
    /// The model as it was when the development set said it was best; plain.
    pub model: Llama,
    /// The scores then.
    pub scores: Scores,
    /// The update after which it was.
    pub best_step: u64,
    /// Updates done.
    pub steps: u64,
    /// Tokens of a row.
    pub seq_len: usize,
}

/// Trains a classifier of the classes `names` from a model for text on an autodiff device.
///
/// Every example is its tokens between BOS, where the tokenizer adds one, and EOS, where there is one; the class is read at
/// the last. `on_progress` is called after every measurement, and is given the model if it is the best so far.
///
/// # Errors
/// A setting, an example that is too long, a class that `names` lacks, numbers that are not finite.
pub fn classify(
    model: Llama,
    tokenizer: &dyn Encode,
    names: &[String],
    [train, dev]: [&[Example]; 2],
    settings: &Settings,
    on_progress: &mut dyn FnMut(&Progress) -> Result<()>,
) -> Result<Outcome> {
    settings.validate()?;
    let device = model.device();
    let (train, dev) = (encode(tokenizer, names, train)?, encode(tokenizer, names, dev)?);
    let longest = train.iter().chain(&dev).map(|(_, e)| e.ids.len()).max().unwrap_or(1);
    let seq_len = seq_len(settings, longest, model.config().max_seq_len)?;
    let marks = marks(tokenizer);
    let train = fitted(train, "training", seq_len, marks, settings)?;
    let dev = fitted(dev, "development", seq_len, marks, settings)?;
    let model = prepared(model, names.len(), settings)?;
    let mut engine = Engine::alone(model);
    let mut optimizer = AdamW::new(AdamWConfig::default(), placement(&device))?;

    let per_epoch = (train.len() as u64).div_ceil(settings.batch as u64);
    let steps = per_epoch * settings.epochs;
    let every = per_epoch.div_ceil(settings.evals_per_epoch).max(1);
    let schedule = LrSchedule::new(ScheduleConfig {
        schedule: Schedule::Linear,
        peak_lr: settings.peak_lr,
        min_lr: 0.0,
        warmup_steps: ((steps as f64 * settings.warmup) as u64).min(steps.saturating_sub(1)),
        steps,
        ..ScheduleConfig::default()
    })?;
    let groups = ParamGroups::default();
    let begun = Instant::now();
    let (mut best, mut since_best, mut done) = (None::<(f64, Outcome)>, 0, 0);
    let (mut nats, mut seen) = (0.0, 0u64);
    for step in 0..steps {
        let (epoch, at) = (step / per_epoch, (step % per_epoch) as usize * settings.batch);
        let order = shuffled(train.len(), settings.seed, epoch);
        let chosen: Vec<&Encoded> =
            order[at..order.len().min(at + settings.batch)].iter().map(|i| &train[*i]).collect();
        let lr = schedule.lr(step);
        let update = StepSettings {
            lr,
            weight_decay: settings.weight_decay,
            groups: &groups,
            grad_clip: settings.grad_clip,
            activations: Activations::Keep,
        };
        let batch = [pack(&chosen, seq_len).micro_batch(&device)];
        let outcome = step_of(&mut engine, &mut optimizer, 1, &batch, update).map_err(|found| {
            FinetuneError::NotFinite { step: step + 1, what: found.what, value: found.value }
        })?;
        nats += outcome.loss.nats;
        seen += outcome.loss.tokens;
        done = step + 1;
        if done % every != 0 && done != steps {
            continue;
        }
        let whole = engine.whole().expect("one rank holds all of the model");
        let plain = caravan_train::for_inference(&whole);
        drop(whole);
        let scores = score(&plain, &dev, seq_len, names);
        let value = if settings.metric == "macro_f1" { scores.macro_f1 } else { scores.accuracy };
        let is_best = best.as_ref().is_none_or(|(old, _)| value > *old);
        on_progress(&Progress {
            step: done,
            steps,
            train_loss: nats / seen.max(1) as f64,
            lr,
            scores: Some(scores.clone()),
            is_best,
            secs: begun.elapsed().as_secs_f64(),
        })?;
        (nats, seen) = (0.0, 0);
        if is_best {
            let outcome = Outcome { model: plain, scores, best_step: done, steps: done, seq_len };
            (best, since_best) = (Some((value, outcome)), 0);
        } else {
            since_best += 1;
            if settings.patience > 0 && since_best >= settings.patience {
                break;
            }
        }
    }
    let (_, outcome) = best.expect("the last update is measured");
    Ok(Outcome { steps: done, ..outcome })
}

/// The scores of a classifier on examples; those longer than `seq_len` are cut as `settings` says.
///
/// # Errors
/// As [`classify`].
pub fn measure(
    model: &Llama,
    tokenizer: &dyn Encode,
    names: &[String],
    examples: &[Example],
    seq_len: usize,
    settings: &Settings,
) -> Result<Scores> {
    let encoded = encode(tokenizer, names, examples)?;
    let encoded = fitted(encoded, "measuring", seq_len, marks(tokenizer), settings)?;
    Ok(score(model, &encoded, seq_len, names))
}

/// The probability of every class for each text.
///
/// # Errors
/// As [`classify`]; lines are counted over the texts.
pub fn predict(
    model: &Llama,
    tokenizer: &dyn Encode,
    names: &[String],
    texts: &[String],
    seq_len: usize,
    settings: &Settings,
) -> Result<Vec<Vec<f64>>> {
    let example = |(i, text): (usize, &String)| Example {
        line: i + 1,
        text: text.clone(),
        label: names[0].clone(),
    };
    let examples: Vec<Example> = texts.iter().enumerate().map(example).collect();
    let encoded = encode(tokenizer, names, &examples)?;
    let encoded = fitted(encoded, "texts", seq_len, marks(tokenizer), settings)?;
    let mut found = vec![Vec::new(); texts.len()];
    class_logits(model, &encoded, seq_len, &mut |i, logits| found[i] = softmax(logits));
    Ok(found)
}

/// The model with a new head, and with adapters or all weights to train.
fn prepared(model: Llama, n_classes: usize, settings: &Settings) -> Result<Llama> {
    let mut model = model.with_classes(n_classes, settings.seed)?;
    let is_lora = settings.method == "lora";
    if is_lora {
        model = model.with_lora(&settings.lora(), settings.seed)?;
    }
    let patterns: Vec<&str> =
        settings.freeze.split(',').map(str::trim).filter(|pattern| !pattern.is_empty()).collect();
    let paths: Vec<String> = model.parameters().into_iter().map(|info| info.path).collect();
    for pattern in &patterns {
        if !paths.iter().any(|path| matches(pattern, path)) {
            let help = "paths are such as blocks.0.wq.weight, embed.weight, head.norm.weight";
            return Err(wrong("freeze", pattern, "matches no parameter", help));
        }
    }
    let is_frozen = |path: &str| patterns.iter().any(|pattern| matches(pattern, path));
    let is_trained = |path: &str| {
        let part = path.contains(".lora.") || path.starts_with("head.output.");
        (!is_lora || part) && !is_frozen(path)
    };
    if !paths.iter().any(|path| is_trained(path)) {
        return Err(wrong("freeze", &settings.freeze, "leaves nothing to train", "freeze less"));
    }
    Ok(model.freeze(&is_trained))
}

fn placement(device: &Device) -> Placement {
    match format!("{device:?}").contains("Flex") {
        true => Placement::Host,
        false => Placement::Device,
    }
}

fn seq_len(settings: &Settings, longest: usize, context: usize) -> Result<usize> {
    // A few rows for a batch: short examples share one.
    const SHORTEST: usize = 128;
    match settings.seq_len {
        0 => Ok(longest.max(SHORTEST).min(context)),
        asked if asked > context => Err(wrong(
            "seq_len",
            &asked,
            &format!("is more than the model's context of {context}"),
            "lower it",
        )),
        asked => Ok(asked),
    }
}

fn score(model: &Llama, examples: &[Encoded], seq_len: usize, names: &[String]) -> Scores {
    let mut confusion = vec![vec![0u64; names.len()]; names.len()];
    let mut losses = vec![0.0; examples.len()];
    class_logits(model, examples, seq_len, &mut |i, logits| {
        let probabilities = softmax(logits);
        let given = (0..logits.len()).fold(0, |b, k| if logits[k] > logits[b] { k } else { b });
        confusion[examples[i].class][given] += 1;
        losses[i] = -probabilities[examples[i].class].ln();
    });
    Scores::new(names, confusion, losses.iter().sum())
}

/// Calls `f` with the logits of every example's classes.
fn class_logits(
    model: &Llama,
    examples: &[Encoded],
    seq_len: usize,
    f: &mut dyn FnMut(usize, &[f32]),
) {
    // Those of similar length fill rows best, and enough of them for a pass.
    let mut order: Vec<usize> = (0..examples.len()).collect();
    order.sort_by_key(|i| examples[*i].ids.len());
    let device = model.device();
    let mut rest = &order[..];
    while !rest.is_empty() {
        let mut tokens = 0;
        let fits = |i: &&usize| {
            tokens += examples[**i].ids.len();
            tokens <= ROWS * seq_len
        };
        let n = rest.iter().take_while(fits).count().max(1);
        let (now, later) = rest.split_at(n);
        rest = later;
        let packed = pack(&now.iter().map(|i| &examples[*i]).collect::<Vec<_>>(), seq_len);
        let batch = packed.micro_batch(&device);
        let logits = model.logits(batch.tokens, batch.document_starts); // [rows, seq_len, classes]
        let n_classes = logits.dims()[2];
        let values: Vec<f32> =
            logits.into_data().convert::<f32>().try_into_vec().expect("just converted to f32");
        for (i, (row, position)) in now.iter().zip(&packed.ends) {
            let at = (row * seq_len + position) * n_classes;
            f(*i, &values[at..at + n_classes]);
        }
    }
}

fn softmax(logits: &[f32]) -> Vec<f64> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> =
        logits.iter().map(|logit| (f64::from(*logit) - f64::from(highest)).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

/// The order of an epoch: a function of (seed, epoch).
fn shuffled(n: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        let j = random(seed, epoch, i as u64) % (i as u64 + 1);
        order.swap(i, j as usize);
    }
    order
}

/// 64 random bits from three numbers: SplitMix64's finaliser after each (Steele, Lea, Flood 2014).
fn random(seed: u64, epoch: u64, draw: u64) -> u64 {
    [seed, epoch, draw].into_iter().fold(0, |state, value| {
        let mut z = (state ^ value).wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}
