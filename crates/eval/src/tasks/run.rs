//! A file of rows through the model.

use std::path::{Path, PathBuf};

use caravan_model::Forward;
use caravan_tokenizer::Encode;

use super::ask::{Ask, Choose, Generate, Item};
use super::metrics::Metric;
use super::passages::UNANSWERABLE;
use super::report::{ItemDetail, ItemReport, TaskReport};
use super::shots::Pool;
use super::{Task, TaskKind, normalise, numbers};
use crate::error::EvalError;
use crate::rolling::{Rolled, roll};
use crate::rows::{read, row_error};
use crate::scoring::{Answer, Edges, Request, answer, encode_pairs};
use crate::writing::{Writer, Written};

/// How to run a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskOptions {
    /// Worked examples before each question, drawn from the other rows of the same file.
    pub shots: usize,
    /// Draws the examples from this file instead, such as the training part of a benchmark.
    pub shots_from: Option<PathBuf>,
    /// Only the first so many rows are asked; the examples still come from all.
    pub limit: Option<usize>,
    /// Seed of the choice of examples.
    pub seed: u64,
    /// About so many tokens go through the model at once.
    pub batch_tokens: usize,
    /// Whether BOS stands before every prompt, if the tokenizer has one: as the model was trained.
    pub bos: bool,
    /// Ends a generated answer, beside the tokenizer's EOS.
    pub ends: Vec<u32>,
}

impl Default for TaskOptions {
    /// No examples, all rows, BOS.
    fn default() -> Self {
        Self {
            shots: 0,
            shots_from: None,
            limit: None,
            seed: 0,
            batch_tokens: 4096,
            bos: true,
            ends: Vec::new(),
        }
    }
}

/// A report, and what was asked and answered row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskRun {
    /// The report.
    pub report: TaskReport,
    /// One per row asked.
    pub items: Vec<ItemReport>,
}

/// Asks the model every row of the file at `path`.
///
/// # Errors
/// A file that cannot be read, a bad row (with its place), too few rows for the shots, a continuation longer than the
/// context, a prompt that cannot be continued.
pub fn run_task(
    model: &(dyn Forward + Sync),
    tokenizer: &dyn Encode,
    task: &Task,
    path: &Path,
    options: &TaskOptions,
) -> Result<TaskReport, EvalError> {
    Ok(run_task_items(model, tokenizer, task, path, options)?.report)
}

/// The same, with every row's numbers.
///
/// # Errors
/// As [`run_task`].
pub fn run_task_items(
    model: &(dyn Forward + Sync),
    tokenizer: &dyn Encode,
    task: &Task,
    path: &Path,
    options: &TaskOptions,
) -> Result<TaskRun, EvalError> {
    let refuse = |reason, help| EvalError::Options { task: task.name.to_string(), reason, help };
    if options.limit == Some(0) {
        return Err(refuse("a limit of 0 asks nothing", "ask at least one item"));
    }
    if options.shots > 0 && task.kind == TaskKind::Rolling {
        return Err(refuse("whole texts have no examples before them", "leave out the shots"));
    }
    let items = items(task, path)?;
    let others = options.shots_from.as_deref().map(|path| self::items(task, path)).transpose()?;
    let pool = Pool {
        items: others.as_deref().unwrap_or(&items),
        own: others.is_none(),
        shots: options.shots,
        seed: options.seed,
    };
    let asked = &items[..options.limit.unwrap_or(items.len()).min(items.len())];
    let mut prefixed = Vec::with_capacity(asked.len());
    for (index, item) in asked.iter().enumerate() {
        let before = pool.before(index, item).map_err(|n_rows| EvalError::Shots {
            shots: options.shots,
            path: options.shots_from.as_deref().unwrap_or(path).to_owned(),
            n_rows,
            group: item.group.clone(),
        })?;
        prefixed.push((before, item));
    }
    let run = Run { model, tokenizer, task, path, options };
    let (details, mut metrics, n_truncated) = match task.kind {
        TaskKind::MultipleChoice => run.choose(&prefixed)?,
        TaskKind::Continuation => run.go_on(&prefixed)?,
        TaskKind::ExtractiveQa | TaskKind::Generation => run.write(&prefixed)?,
        TaskKind::Rolling => run.roll(&prefixed)?,
    };
    metrics.retain(|metric| task.metrics.contains(&metric.name));
    let report = TaskReport {
        task: task.name.clone().into_owned(),
        kind: task.kind,
        file: path.to_owned(),
        n_items: asked.len(),
        shots: options.shots,
        seed: options.seed,
        n_truncated,
        metrics,
    };
    let item = |(detail, item): (ItemDetail, &Item)| ItemReport {
        task: report.task.clone(),
        place: item.place.clone(),
        detail,
    };
    let items = details.into_iter().zip(asked).map(item).collect();
    Ok(TaskRun { report, items })
}

fn items(task: &Task, path: &Path) -> Result<Vec<Item>, EvalError> {
    let help = task.form.help();
    let rows = read(path, &task.form.layout(), &help)?;
    let item =
        |row| task.form.item(row).map_err(|fault| row_error(path, &row.place, fault.0, &help));
    rows.iter().map(item).collect()
}

/// What was answered row by row, the metrics, and how many prompts were cut.
type Outcome = Result<(Vec<ItemDetail>, Vec<Metric>, usize), EvalError>;

struct Run<'a> {
    model: &'a (dyn Forward + Sync),
    tokenizer: &'a dyn Encode,
    task: &'a Task,
    path: &'a Path,
    options: &'a TaskOptions,
}

impl Run<'_> {
    fn choose(&self, asked: &[(String, &Item)]) -> Outcome {
        let chosen = asked.iter().filter_map(|(before, item)| match &item.ask {
            Ask::Choose(choose) => Some((before, item, choose)),
            _ => None,
        });
        let (mut pairs, mut groups) = (Vec::new(), Vec::new());
        for (before, item, Choose { options, .. }) in chosen.clone() {
            pairs.extend(options.iter().map(|(c, t)| (format!("{before}{c}"), t.clone())));
            groups.push((item.place.as_str(), options.len()));
        }
        let answers = self.ask(&pairs, &groups)?;
        let (mut acc, mut norm, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
        let (mut details, mut n_truncated, mut pairs) = (Vec::new(), 0, pairs.into_iter());
        for (answers, (_, _, Choose { texts, gold, .. })) in answers.into_iter().zip(chosen) {
            let log_probs: Vec<f64> = answers.iter().map(|answer| answer.log_prob).collect();
            let over = |length: fn(&String) -> usize| {
                let scores =
                    log_probs.iter().zip(texts).map(|(sum, text)| sum / length(text) as f64);
                best(&scores.collect::<Vec<_>>())
            };
            let predicted = best(&log_probs);
            let predicted_norm = over(|text| text.chars().count());
            let predicted_bytes = over(String::len);
            let right = |choice: usize| f64::from(u8::from(choice == *gold));
            acc.push(right(predicted));
            norm.push(right(predicted_norm));
            bytes.push(right(predicted_bytes));
            n_truncated += usize::from(answers.iter().any(|answer| answer.truncated));
            details.push(ItemDetail::Choice {
                requests: pairs.by_ref().take(answers.len()).collect(),
                log_probs,
                greedy: answers.iter().map(|answer| answer.greedy).collect(),
                gold: *gold,
                predicted,
                predicted_norm,
                predicted_bytes,
            });
        }
        let metrics = [("acc", acc), ("acc_norm", norm), ("acc_bytes", bytes)];
        Ok((
            details,
            metrics.map(|(name, values)| Metric::mean(name, &values)).to_vec(),
            n_truncated,
        ))
    }

    fn go_on(&self, asked: &[(String, &Item)]) -> Outcome {
        let (mut pairs, mut groups) = (Vec::new(), Vec::new());
        for (before, item) in asked {
            if let Ask::Continue { context, continuation } = &item.ask {
                pairs.push((format!("{before}{context}"), continuation.clone()));
                groups.push((item.place.as_str(), 1));
            }
        }
        let answers = self.ask(&pairs, &groups)?.concat();
        let right: Vec<f64> = answers.iter().map(|a| f64::from(u8::from(a.greedy))).collect();
        let nats: Vec<f64> = answers.iter().map(|answer| -answer.log_prob).collect();
        let detail = |(request, answer): ((String, String), &Answer)| ItemDetail::Continuation {
            request,
            log_prob: answer.log_prob,
            greedy: answer.greedy,
        };
        let details = pairs.into_iter().zip(&answers).map(detail).collect();
        let n_truncated = answers.iter().filter(|answer| answer.truncated).count();
        let metrics = vec![Metric::mean("acc", &right), Metric::exp_of_mean("perplexity", &nats)];
        Ok((details, metrics, n_truncated))
    }

    /// Encodes the pairs, cuts them into groups with the place of each, and asks the model.
    fn ask(
        &self,
        pairs: &[(String, String)],
        groups: &[(&str, usize)],
    ) -> Result<Vec<Vec<Answer>>, EvalError> {
        let edges = Edges::new(self.tokenizer, self.options.bos);
        let mut requests = encode_pairs(self.tokenizer, edges, pairs)?.into_iter();
        let limit = self.model.config().max_seq_len;
        let mut grouped = Vec::with_capacity(groups.len());
        for (place, n) in groups {
            let group: Vec<Request> = requests.by_ref().take(*n).collect();
            for Request { context, continuation } in &group {
                let found = continuation.len();
                if context.is_empty() || found == 0 {
                    let reason = "the context or the answer is empty once encoded".to_owned();
                    return Err(row_error(self.path, place, reason, "give both some text"));
                }
                if found > limit {
                    let (path, place) = (self.path.to_owned(), (*place).to_owned());
                    return Err(EvalError::ContinuationTooLong { path, place, found, limit });
                }
            }
            grouped.push(group);
        }
        answer(self.model, &grouped, self.options.batch_tokens.max(1))
    }

    fn write(&self, asked: &[(String, &Item)]) -> Outcome {
        let asked: Vec<(String, &Generate)> = asked
            .iter()
            .filter_map(|(before, item)| match &item.ask {
                Ask::Generate(generate) => Some((format!("{before}{}", generate.prompt), generate)),
                _ => None,
            })
            .collect();
        let writer = Writer {
            model: self.model,
            tokenizer: self.tokenizer,
            bos: self.options.bos,
            ends: &self.options.ends,
            stop: self.task.stop.iter().map(|stop| stop.to_string()).collect(),
            max_tokens: self.task.max_tokens,
        };
        let prompts: Vec<&str> = asked.iter().map(|(prompt, _)| prompt.as_str()).collect();
        let written = writer.write(&prompts)?;
        let n_truncated = written.iter().filter(|written| written.truncated).count();
        let mut columns: Vec<(&'static str, Vec<f64>)> =
            self.task.kind.metrics().iter().map(|name| (*name, Vec::new())).collect();
        let mut details = Vec::new();
        for (Written { text, .. }, (prompt, Generate { answers, .. })) in
            written.into_iter().zip(asked)
        {
            let mut scores = Vec::new();
            for (name, column) in &mut columns {
                let score = self.score(name, &text, answers);
                column.push(score);
                if self.task.metrics.contains(name) {
                    scores.push((*name, score));
                }
            }
            details.push(ItemDetail::Written {
                prompt,
                written: text,
                answers: answers.clone(),
                scores,
            });
        }
        let metrics = columns.iter().map(|(name, values)| Metric::mean(name, values)).collect();
        Ok((details, metrics, n_truncated))
    }

    /// The best score of any right answer. Where there is none, nothing is right, or that there is none.
    fn score(&self, metric: &str, written: &str, answers: &[String]) -> f64 {
        let language = self.task.language;
        let truth = |right: bool| f64::from(u8::from(right));
        let one = |answer: &str| match metric {
            "exact_match" if self.task.kind == TaskKind::Generation => {
                truth(written.trim() == answer.trim())
            }
            "exact_match" => truth(normalise::exact_match(written, answer, language)),
            "exact_match_strict" => truth(numbers::strict(written, answer)),
            "exact_match_flexible" => truth(numbers::flexible(written, answer)),
            _ => normalise::f1(written, answer, language),
        };
        if answers.is_empty() {
            return one("").max(one(UNANSWERABLE));
        }
        answers.iter().map(|answer| one(answer)).fold(0.0, f64::max)
    }

    fn roll(&self, asked: &[(String, &Item)]) -> Outcome {
        let mut texts = Vec::new();
        for (_, item) in asked {
            if let Ask::Roll { text } = &item.ask {
                texts.push((item.place.as_str(), text.as_str()));
            }
        }
        let rolled =
            roll(self.model, self.tokenizer, self.path, &texts, self.options.batch_tokens)?;
        let over = |count: fn(&Rolled) -> u64| -> Vec<(f64, f64)> {
            rolled.iter().map(|rolled| (rolled.nats, count(rolled) as f64)).collect()
        };
        let (words, bytes, tokens) =
            (over(|r| r.n_words), over(|r| r.n_bytes), over(|r| r.n_tokens));
        let per_bit = std::f64::consts::LN_2.recip();
        let metrics = vec![
            Metric::of_ratio("word_perplexity", &words, f64::exp, f64::exp),
            Metric::of_ratio("byte_perplexity", &bytes, f64::exp, f64::exp),
            Metric::of_ratio("bits_per_byte", &bytes, |nats| nats * per_bit, |_| per_bit),
            Metric::of_ratio("perplexity", &tokens, f64::exp, f64::exp),
        ];
        let detail = |rolled: &Rolled| ItemDetail::Rolled {
            log_prob: -rolled.nats,
            n_tokens: rolled.n_tokens,
            n_words: rolled.n_words,
            n_bytes: rolled.n_bytes,
        };
        Ok((rolled.iter().map(detail).collect(), metrics, 0))
    }
}

/// How a written answer compares with a right one: `[exact_match, f1, exact_match_strict, exact_match_flexible]`, the first
/// two normalised for the language of that code (ISO 639). Nothing for a code that is none.
pub fn score_answer(language: &str, written: &str, answer: &str) -> Option<[f64; 4]> {
    let language = super::Language::of_code(language)?;
    let truth = |right: bool| f64::from(u8::from(right));
    Some([
        truth(normalise::exact_match(written, answer, language)),
        normalise::f1(written, answer, language),
        truth(numbers::strict(written, answer)),
        truth(numbers::flexible(written, answer)),
    ])
}

/// Index of the highest score, the first among equals.
fn best(scores: &[f64]) -> usize {
    (0..scores.len()).fold(0, |best, i| if scores[i] > scores[best] { i } else { best })
}
