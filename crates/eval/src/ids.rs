//! Log-probabilities of given token ids: the raw measurement, for comparing with other implementations.

use std::path::Path;

use caravan_model::Forward;
use serde::{Deserialize, Serialize};

use crate::error::EvalError;
use crate::text::{check_ids, to_host};
use crate::windows::{Batch, Window};

/// What the model says about sequences of ids.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IdScores {
    /// Per sequence, `ln p(token)` of its second token onwards, each given all tokens before it.
    pub log_probs: Vec<Vec<f64>>,
    /// Mean of `-ln p` over all of these; absent if there is none.
    pub loss: Option<f64>,
    /// Number of scored tokens.
    pub n_tokens: u64,
}

/// Scores sequences of ids as they are: nothing is added before or after them.
///
/// # Errors
/// A sequence longer than the model's context, or an id outside its vocabulary.
pub fn score_ids(model: &dyn Forward, sequences: &[Vec<u32>]) -> Result<IdScores, EvalError> {
    let limit = model.config().max_seq_len;
    for (index, ids) in sequences.iter().enumerate() {
        if ids.len() > limit {
            return Err(EvalError::SequenceTooLong { index, found: ids.len(), limit });
        }
        check_ids(ids, index, model.config().vocab_size)?;
    }
    let mut log_probs = Vec::with_capacity(sequences.len());
    for ids in sequences {
        let mut batch = Batch::new(1, limit, false);
        let window = Window::cut(ids, limit, limit).next();
        if window.is_none_or(|window| batch.add(window).is_err()) {
            log_probs.push(Vec::new()); // a sequence of at most one token predicts nothing
            continue;
        }
        let (inputs, targets, _) = batch.tensors(&model.device());
        let losses = to_host(model.token_losses(inputs, targets, None));
        log_probs.push(losses.into_iter().map(|loss| -f64::from(loss)).collect());
    }
    let n_tokens = log_probs.iter().map(|row| row.len() as u64).sum();
    let total: f64 = log_probs.iter().map(|row| row.iter().sum::<f64>()).sum();
    Ok(IdScores { log_probs, loss: (n_tokens > 0).then(|| -total / n_tokens as f64), n_tokens })
}

/// Reads `{"input_ids": [[1, 2, ..], ..]}`.
///
/// # Errors
/// A file that cannot be read or has another form; the message names the line.
pub fn read_ids(path: &Path) -> Result<Vec<Vec<u32>>, EvalError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        input_ids: Vec<Vec<u32>>,
    }
    let read = |source| EvalError::Read { path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(read)?;
    let file: File = serde_json::from_str(&text).map_err(|error| EvalError::Row {
        path: path.to_owned(),
        place: error.line().to_string(),
        reason: error.to_string(),
        help: "the file holds one JSON object: {\"input_ids\": [[1, 2, 3], [4, 5]]}".to_owned(),
    })?;
    Ok(file.input_ids)
}
