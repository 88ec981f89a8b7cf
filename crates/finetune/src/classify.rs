//! Training a classifier, measuring it, and asking it.

use caravan_model::{Forward, Llama};
use caravan_tokenizer::Encode;

use crate::encoding::{encode, fitted, marks};
use crate::error::Result;
use crate::examples::Example;
use crate::groups::prepared;
use crate::order::Order;
use crate::packing::{Encoded, RowShape, pack};
use crate::scores::Scores;
use crate::settings::{Settings, wrong};
use crate::tune::{Ended, Job, Outcome, Progress, Session, TrainSet, tune};

/// Rows of a forward pass when measuring.
const ROWS: usize = 8;

/// Trains a classifier of the classes `names` from a model for text on an autodiff device.
///
/// Every example is its tokens between BOS, where the tokenizer adds one, and EOS, where there is one; the class is read at
/// the last, or from the mean of all (`pool`). `on_progress` is called after every measurement.
///
/// # Errors
/// A setting, an example that is too long, a class that `names` lacks, numbers that are not finite, a session's state that
/// is another run's.
pub fn classify(
    model: Llama,
    tokenizer: &dyn Encode,
    names: &[String],
    [train, dev]: [&[Example]; 2],
    settings: &Settings,
    session: &Session<'_>,
    on_progress: &mut dyn FnMut(&Progress<Scores>) -> Result<()>,
) -> Result<Ended<Outcome<Scores>>> {
    settings.validate()?;
    settings.check_metric(&["accuracy", "macro_f1", "loss"])?;
    let (train, dev) = (encode(tokenizer, names, train)?, encode(tokenizer, names, dev)?);
    let longest = train.iter().chain(&dev).map(|(_, ids, _)| ids.len()).max().unwrap_or(1);
    let seq_len = settings.row_len(longest, model.config().max_seq_len)?;
    let marks = marks(tokenizer);
    let train = fitted(train, "training", seq_len, marks, settings)?;
    let dev = fitted(dev, "development", seq_len, marks, settings)?;
    let weights = class_weights(settings, names, &train)?;
    let order = Order::new(train.len(), settings.seed);
    let order = if weights.is_empty() { order } else { order.weighted(weights) };
    let layout = settings.layout(model.config(), seq_len)?;
    let identity = settings.identity(&model, &(names, &train, &dev));
    let model = settings.classifier(model, names.len())?;
    let model = prepared(model, settings, &is_of_head)?;
    let train = TrainSet { examples: train, order, rows: settings.rows(seq_len) };
    let mut job = Classifying { train, dev, names, seq_len, settings };
    tune(&mut job, model, settings, layout, &identity, session, on_progress)
}

/// Whether a parameter is one that a model for tokens does not have.
pub(crate) fn is_of_head(path: &str) -> bool {
    path.starts_with("head.output.") || path.ends_with(".mix")
}

struct Classifying<'a> {
    train: TrainSet,
    dev: Vec<Encoded>,
    names: &'a [String],
    seq_len: usize,
    settings: &'a Settings,
}

impl Job for Classifying<'_> {
    type Scores = Scores;

    fn train_set(&mut self) -> &mut TrainSet {
        &mut self.train
    }

    fn measure(&self, model: &dyn Forward) -> Scores {
        score(model, &self.dev, self.seq_len, self.names)
    }

    fn value(&self, scores: &Scores) -> f64 {
        match self.settings.metric.as_str() {
            "macro_f1" => scores.macro_f1,
            "loss" => -scores.loss,
            _ => scores.accuracy,
        }
    }
}

/// How often each example is to come, from what `class_weights` says of its class; empty where all are alike.
fn class_weights(settings: &Settings, names: &[String], examples: &[Encoded]) -> Result<Vec<f64>> {
    let asked = settings.class_weights.trim();
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    let refused = |problem: &str| {
        let help = format!("give `balanced`, or weights such as {}", sample(names));
        Err(wrong("class_weights", &asked, problem, &help))
    };
    let mut weights = vec![1.0; names.len()];
    if asked == "balanced" {
        for (class, weight) in weights.iter_mut().enumerate() {
            let n = examples.iter().filter(|example| example.class() == class).count();
            *weight = examples.len() as f64 / (names.len() * n.max(1)) as f64;
        }
    } else {
        for part in asked.split(',') {
            // A class's own name may have a colon.
            let Some((name, weight)) = part.rsplit_once(':') else {
                return refused("has no class and weight");
            };
            let class = names.iter().position(|known| known == name.trim());
            let weight = weight.trim().parse::<f64>().ok().filter(|w| *w > 0.0 && w.is_finite());
            match (class, weight) {
                (Some(class), Some(weight)) => weights[class] = weight,
                (None, _) => return refused(&format!("there is no class `{}`", name.trim())),
                (_, None) => return refused("a weight is a number above 0"),
            }
        }
    }
    Ok(examples.iter().map(|example| weights[example.class()]).collect())
}

fn sample(names: &[String]) -> String {
    let parts = names.iter().take(2).enumerate();
    parts.map(|(i, name)| format!("{name}:{}", i + 1)).collect::<Vec<_>>().join(",")
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

fn score(model: &dyn Forward, examples: &[Encoded], seq_len: usize, names: &[String]) -> Scores {
    let mut confusion = vec![vec![0u64; names.len()]; names.len()];
    let mut losses = vec![0.0; examples.len()];
    class_logits(model, examples, seq_len, &mut |i, logits| {
        let given = (0..logits.len()).fold(0, |b, k| if logits[k] > logits[b] { k } else { b });
        let class = examples[i].class();
        confusion[class][given] += 1;
        losses[i] = log_sum_exp(logits) - f64::from(logits[class]);
    });
    Scores::new(names, confusion, losses.iter().sum())
}

/// Calls `f` with the logits of every example's classes.
fn class_logits(
    model: &dyn Forward,
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
        let packed =
            pack(&now.iter().map(|i| &examples[*i]).collect::<Vec<_>>(), RowShape::up_to(seq_len));
        let batch = packed.micro_batch(&device);
        let logits = model.logits(batch.tokens, batch.document_starts); // [rows, seq_len, classes]
        let n_classes = logits.dims()[2];
        let values: Vec<f32> =
            logits.into_data().convert::<f32>().try_into_vec().expect("just converted to f32");
        for (i, (row, position)) in now.iter().zip(&packed.ends) {
            let at = (row * packed.seq_len + position) * n_classes;
            f(*i, &values[at..at + n_classes]);
        }
    }
}

fn softmax(logits: &[f32]) -> Vec<f64> {
    let all = log_sum_exp(logits);
    logits.iter().map(|logit| (f64::from(*logit) - all).exp()).collect()
}

fn log_sum_exp(logits: &[f32]) -> f64 {
    let highest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - highest).exp()).sum();
    highest + sum.ln()
}
