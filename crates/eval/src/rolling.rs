//! The likelihood of whole texts, of any length.
//!
//! # Reference
//! EleutherAI's lm-evaluation-harness 0.4, `loglikelihood_rolling` and `get_rolling_token_windows` with a context of one
//! token: windows share one token, but the last one is moved back so that it is as long as the others.

use std::path::Path;

use caravan_model::Forward;
use caravan_tokenizer::Encode;

use crate::error::EvalError;
use crate::rows::row_error;
use crate::scoring::Edges;
use crate::text::{check_ids, to_host};
use crate::windows::{Batch, Window};

/// What the model says about a text.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Rolled {
    /// `-ln p(text)`.
    pub(crate) nats: f64,
    pub(crate) n_tokens: u64,
    /// As Python's `len(re.split(r"\s+", text))` counts them: white space at an end counts as one more.
    pub(crate) n_words: u64,
    pub(crate) n_bytes: u64,
}

/// Scores every token of every text, the first one after BOS, or EOS for want of it; `path` and places are for errors.
pub(crate) fn roll(
    model: &dyn Forward,
    tokenizer: &dyn Encode,
    path: &Path,
    texts: &[(&str, &str)],
    batch_tokens: usize,
) -> Result<Vec<Rolled>, EvalError> {
    let limit = model.config().max_seq_len;
    let prefix = Edges::new(tokenizer, true).if_empty;
    let prefix = prefix.ok_or(EvalError::NoSpecialToken { which: "BOS or EOS" })?;
    let plain: Vec<&str> = texts.iter().map(|(_, text)| *text).collect();
    let mut rolled = Vec::with_capacity(texts.len());
    let mut windows: Vec<(usize, Window)> = Vec::new();
    for (index, ids) in tokenizer.encode_batch(&plain)?.into_iter().enumerate() {
        let (place, text) = texts[index];
        if ids.is_empty() {
            let reason = "the text is empty once encoded".to_owned();
            return Err(row_error(path, place, reason, "remove the row"));
        }
        check_ids(&ids, index, model.config().vocab_size)?;
        rolled.push(Rolled {
            nats: 0.0,
            n_tokens: ids.len() as u64,
            n_words: n_words(text),
            n_bytes: text.len() as u64,
        });
        let tokens: Vec<u32> = std::iter::once(prefix).chain(ids).collect();
        windows.extend(Window::rolling(&tokens, limit).map(|window| (index, window)));
    }
    // Long ones together; the sort is stable, so nothing depends on chance.
    windows.sort_by_key(|(_, window)| std::cmp::Reverse(window.inputs.len()));
    let mut windows = windows.into_iter().peekable();
    while let Some((_, longest)) = windows.peek() {
        let rows = (batch_tokens / longest.inputs.len()).max(1);
        let mut batch = Batch::new(rows, limit, false);
        let mut owners = Vec::new();
        for (owner, window) in windows.by_ref().take(rows) {
            owners.push(owner);
            batch.add(window).expect("there are as many rows as windows");
        }
        let (inputs, targets, starts) = batch.tensors(&model.device());
        let losses = to_host(model.token_losses(inputs, targets, starts));
        for ((window, losses), owner) in batch.slices(&losses).zip(owners) {
            let scored = &losses[window.first_scored..];
            rolled[owner].nats += scored.iter().map(|loss| f64::from(*loss)).sum::<f64>();
        }
    }
    Ok(rolled)
}

fn n_words(text: &str) -> u64 {
    let space = |c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c);
    let (mut n, mut inside) = (1, false);
    for c in text.chars() {
        n += u64::from(space(c) && !inside);
        inside = space(c);
    }
    n
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_counted_as_python_splits() {
        for (text, n) in [("a b", 2), (" a\n\n b ", 4), ("", 1), ("abc", 1), ("\u{3000}x", 2)] {
            assert_eq!(n_words(text), n, "{text:?}");
        }
    }
}
