//! Teaching a model to answer: conversations written by a chat template, the loss on the assistant's words alone.
//!
//! ```text
//! messages --ChatTemplate--> text --encode_with_special--> ids; targets where the assistant speaks --pack--> rows
//! ```

use caravan_generate::{ChatTemplate, Message};
use caravan_model::{Forward, Llama};
use caravan_tokenizer::{Encode as _, Tokenizer};
use serde::{Deserialize, Serialize};

use crate::conversations::{ASSISTANT, Conversation};
use crate::error::{FinetuneError, Result};
use crate::groups::prepared;
use crate::order::Order;
use crate::packing::{Encoded, IGNORE, RowShape, pack};
use crate::settings::{Settings, wrong};
use crate::tune::{Ended, Job, Outcome, Progress, Session, TrainSet, tune};

/// Rows of a forward pass when measuring.
const ROWS: usize = 4;

/// How well answers are foreseen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnswerScores {
    /// Mean negative log-probability of an answer's token, in nats.
    pub loss: f64,
    /// Tokens of answers.
    pub n_tokens: u64,
}

/// How conversations become ids.
#[derive(Clone, Copy, Debug)]
pub struct Dialect<'a> {
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// How its turns are written.
    pub template: &'a ChatTemplate,
    /// Ids that end a text.
    pub ends: &'a [u32],
}

/// Trains a model on an autodiff device to answer as the assistant of `train` does.
///
/// Each answer is foreseen from what the template writes before it, as it would be in use. A conversation whose last answer
/// the template does not end with one of the model's end tokens gets EOS, so that the model learns to stop.
///
/// # Errors
/// A setting, a conversation that the template refuses or that is too long, numbers that are not finite, a session's state
/// that is another run's.
pub fn instruct(
    model: Llama,
    dialect: Dialect<'_>,
    [train, dev]: [&[Conversation]; 2],
    settings: &Settings,
    session: &Session<'_>,
    on_progress: &mut dyn FnMut(&Progress<AnswerScores>) -> Result<()>,
) -> Result<Ended<Outcome<AnswerScores>>> {
    settings.validate()?;
    settings.check_metric(&["loss"])?;
    if !settings.class_weights.is_empty() {
        let help = "leave it out: conversations have no classes";
        return Err(wrong("class_weights", &settings.class_weights, "is for classifiers", help));
    }
    if settings.pool != "last" || settings.layer_mix {
        let help = "leave pool and layer_mix out: answers are foreseen token by token";
        return Err(wrong("pool", &settings.pool, "is for classifiers", help));
    }
    let encoded = |set: &[Conversation]| -> Result<Vec<(usize, Encoded)>> {
        set.iter().map(|c| Ok((c.line, dialect.encode(c)?))).collect()
    };
    let (train, dev) = (encoded(train)?, encoded(dev)?);
    let longest = train.iter().chain(&dev).map(|(_, e)| e.ids.len()).max().unwrap_or(1);
    let seq_len = settings.row_len(longest, model.config().max_seq_len)?;
    let train = fitted(train, "training", seq_len, settings)?;
    let dev = fitted(dev, "development", seq_len, settings)?;
    let layout = settings.layout(model.config(), seq_len)?;
    let identity = settings.identity(&model, &("instruct", &train, &dev));
    let model = prepared(model, settings, &|_| false)?;
    let order = Order::new(train.len(), settings.seed);
    let train = TrainSet { examples: train, order, rows: settings.rows(seq_len) };
    let mut job = Answering { train, dev };
    tune(&mut job, model, settings, layout, &identity, session, on_progress)
}

impl Dialect<'_> {
    /// The ids of a conversation, with targets where the assistant speaks.
    ///
    /// The text is encoded piece by piece, cut where an answer begins: a prompt in use ends there too.
    pub(crate) fn encode(&self, conversation: &Conversation) -> Result<Encoded> {
        let messages = &conversation.messages;
        let begin = self.tokenizer.bos_id().filter(|_| self.tokenizer.adds_bos());
        let (mut ids, mut is_answer): (Vec<u32>, Vec<bool>) = (Vec::new(), Vec::new());
        let mut add = |text: &str, speaks: bool| -> Result<()> {
            let more = self.tokenizer.encode_with_special(text)?;
            // Where the template did not write it.
            if ids.is_empty()
                && let Some(bos) = begin.filter(|bos| more.first() != Some(bos))
            {
                ids.push(bos);
                is_answer.push(false);
            }
            is_answer.resize(is_answer.len() + more.len(), speaks);
            ids.extend(more);
            Ok(())
        };
        let mut written = String::new();
        for (i, message) in messages.iter().enumerate() {
            if message.role != ASSISTANT {
                continue;
            }
            let prompt = self.template.render(&messages[..i], true)?;
            let whole = self.template.render(&messages[..=i], false)?;
            let grown = prompt.strip_prefix(written.as_str()).zip(whole.strip_prefix(&*prompt));
            let Some((question, answer)) = grown else {
                return Err(self.not_grown(conversation, i, messages));
            };
            add(question, false)?;
            add(answer, true)?;
            written = whole;
        }
        let said = ids.iter().zip(&is_answer).rev().take_while(|(_, speaks)| **speaks);
        let ended = said.into_iter().any(|(id, _)| self.ends.contains(id));
        if let Some(eos) = self.tokenizer.eos_id().filter(|_| !ended) {
            ids.push(eos);
            is_answer.push(true);
        }
        Ok(encoded(ids, &is_answer))
    }

    fn not_grown(
        &self,
        conversation: &Conversation,
        i: usize,
        messages: &[Message],
    ) -> FinetuneError {
        FinetuneError::Row {
            path: "conversations".into(),
            line: conversation.line,
            problem: format!(
                "the chat template writes turn {} of {} otherwise than what it writes to ask for it: where the answer begins cannot be told",
                i + 1,
                messages.len()
            ),
            help: "give a template that writes turn by turn, with --chat-template NAME or FILE"
                .to_owned(),
        }
    }
}

/// At each id the next one, if that is of an answer.
fn encoded(ids: Vec<u32>, is_answer: &[bool]) -> Encoded {
    let next = |i: usize| match is_answer.get(i + 1) {
        Some(true) => ids[i + 1] as i32,
        _ => IGNORE,
    };
    let targets = (0..ids.len()).map(next).collect();
    Encoded { ids, targets }
}

/// The conversations, none longer than `seq_len`: refused, or cut as `settings` says.
fn fitted(
    conversations: Vec<(usize, Encoded)>,
    set: &str,
    seq_len: usize,
    settings: &Settings,
) -> Result<Vec<Encoded>> {
    let one = |(line, mut example): (usize, Encoded)| {
        let n = example.ids.len();
        if n > seq_len {
            match settings.truncate.as_str() {
                "head" => {
                    example.ids.truncate(seq_len);
                    example.targets.truncate(seq_len);
                    // What it foresaw is gone.
                    example.targets[seq_len - 1] = IGNORE;
                }
                "tail" => {
                    example.ids.drain(..n - seq_len);
                    example.targets.drain(..n - seq_len);
                }
                _ => {
                    let problem = format!("{set}: the conversation at line {line} has {n} tokens");
                    let help = "set truncate=head or truncate=tail to cut it, or a larger seq_len";
                    return Err(wrong("seq_len", &seq_len, &problem, help));
                }
            }
        }
        if example.n_targets() == 0 {
            return Err(FinetuneError::Row {
                path: set.into(),
                line,
                problem: format!("no answer is left in the first {seq_len} tokens"),
                help: "raise seq_len, or set truncate=tail".to_owned(),
            });
        }
        Ok(example)
    };
    conversations.into_iter().map(one).collect()
}

struct Answering {
    train: TrainSet,
    dev: Vec<Encoded>,
}

impl Job for Answering {
    type Scores = AnswerScores;

    fn train_set(&mut self) -> &mut TrainSet {
        &mut self.train
    }

    fn measure(&self, model: &dyn Forward) -> AnswerScores {
        let device = model.device();
        let all: Vec<&Encoded> = self.dev.iter().collect();
        let (mut nats, mut n_tokens) = (0.0, 0);
        let packed = pack(&all, RowShape::up_to(self.train.rows.max));
        for rows in packed.chunks(ROWS) {
            let batch = rows.micro_batch(&device);
            let losses = model.token_losses(batch.tokens, batch.targets, batch.document_starts);
            let losses: Vec<f32> =
                losses.into_data().convert::<f32>().try_into_vec().expect("just converted to f32");
            nats += losses.iter().map(|loss| f64::from(*loss)).sum::<f64>();
            n_tokens += batch.n_targets;
        }
        AnswerScores { loss: nats / n_tokens as f64, n_tokens }
    }

    fn value(&self, scores: &AnswerScores) -> f64 {
        -scores.loss
    }
}
