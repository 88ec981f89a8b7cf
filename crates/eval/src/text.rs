//! Perplexity and bits per byte of text.

use burn::tensor::Tensor;
use caravan_model::Forward;
use caravan_tokenizer::Encode;
use serde::Serialize;

use crate::error::EvalError;
use crate::windows::{Batch, Window};

/// A document to be scored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvalDocument {
    /// BOS, the tokens of the text, EOS.
    pub tokens: Vec<u32>,
    /// Length of the text in bytes of UTF-8.
    pub n_bytes: u64,
}

impl EvalDocument {
    /// Encodes a text.
    ///
    /// # Errors
    /// If the tokenizer has no BOS or no EOS, or cannot encode the text.
    pub fn from_text(tokenizer: &dyn Encode, text: &str) -> Result<Self, EvalError> {
        let bos = tokenizer.bos_id().ok_or(EvalError::NoSpecialToken { which: "BOS" })?;
        let eos = tokenizer.eos_id().ok_or(EvalError::NoSpecialToken { which: "EOS" })?;
        let mut tokens = vec![bos];
        tokens.extend(tokenizer.encode(text)?);
        tokens.push(eos);
        Ok(Self { tokens, n_bytes: text.len() as u64 })
    }
}

/// How documents are fed to the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextOptions {
    /// Inputs per window: at most the model's `max_seq_len`, best what it was trained with.
    pub seq_len: usize,
    /// Tokens from one window's start to the next one's, in `1..=seq_len`. `seq_len` itself is the cheapest: windows
    /// share no more than a token. A smaller one gives each token more context at the price of more passes.
    pub stride: usize,
    /// Rows per forward pass.
    pub rows: usize,
    /// Puts several documents side by side in a row, kept apart by a document mask. For models trained with
    /// `document_mask`; without it every document has rows of its own.
    pub packed: bool,
}

/// Summed negative log-likelihood of text, and what it is a sum over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct TextScore {
    /// Sum of `-ln p(token)` over every text token.
    pub nats: f64,
    /// Text tokens, each scored once; neither BOS nor EOS.
    pub n_tokens: u64,
    /// Bytes of UTF-8 of the text.
    pub n_bytes: u64,
    /// Documents.
    pub n_documents: u64,
}

impl TextScore {
    /// Bits the model needs per byte of text.
    pub fn bits_per_byte(&self) -> f64 {
        self.nats / std::f64::consts::LN_2 / self.n_bytes as f64
    }

    /// `exp` of the mean loss per token. Comparable only between models with the same tokenizer.
    pub fn perplexity(&self) -> f64 {
        (self.nats / self.n_tokens as f64).exp()
    }
}

/// Scores every text token of each document exactly once: the first is predicted from BOS, the others from what is before
/// them in their window, and EOS is not counted.
///
/// The sum is in float64 in the order of the documents, so neither `rows` nor the number of threads changes it beyond what
/// a different shape does to the model's own arithmetic.
///
/// # Errors
/// Windows that the model cannot take, a document without BOS and EOS or with an unknown id, no text at all.
pub fn evaluate_text(
    model: &dyn Forward,
    documents: impl IntoIterator<Item = EvalDocument>,
    options: &TextOptions,
) -> Result<TextScore, EvalError> {
    let TextOptions { seq_len, stride, rows, packed } = *options;
    let (limit, vocab_size) = (model.config().max_seq_len, model.config().vocab_size);
    if stride == 0 || stride > seq_len || seq_len > limit || rows == 0 {
        return Err(EvalError::Windows { seq_len, stride, rows, limit });
    }
    let mut score = TextScore::default();
    let mut batch = Batch::new(rows, seq_len, packed);
    for document in documents {
        let [text @ .., _eos] = &document.tokens[..] else {
            return Err(EvalError::Document { index: score.n_documents, found: 0 });
        };
        if text.is_empty() {
            return Err(EvalError::Document { index: score.n_documents, found: 1 });
        }
        check_ids(text, score.n_documents as usize, vocab_size)?;
        score.n_documents += 1;
        score.n_bytes += document.n_bytes;
        for window in Window::cut(text, seq_len, stride) {
            if let Err(window) = batch.add(window) {
                run(model, &mut batch, &mut score);
                batch.add(window).expect("an empty batch has room for a window");
            }
        }
    }
    if !batch.is_empty() {
        run(model, &mut batch, &mut score);
    }
    if score.n_tokens == 0 || score.n_bytes == 0 {
        return Err(EvalError::NoText);
    }
    Ok(score)
}

fn run(model: &dyn Forward, batch: &mut Batch, score: &mut TextScore) {
    let (inputs, targets, starts) = batch.tensors(&model.device());
    let losses = to_host(model.token_losses(inputs, targets, starts));
    for (window, losses) in batch.slices(&losses) {
        let scored = &losses[window.first_scored..];
        score.nats += scored.iter().map(|loss| f64::from(*loss)).sum::<f64>();
        score.n_tokens += scored.len() as u64;
    }
    batch.clear();
}

/// All values of a tensor, row-major.
pub(crate) fn to_host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let data = tensor.into_data().convert::<f32>();
    data.try_into_vec().expect("the data was just converted to f32")
}

/// Every id must be one of the model's, or its embedding lookup would fail.
pub(crate) fn check_ids(ids: &[u32], index: usize, vocab_size: usize) -> Result<(), EvalError> {
    match ids.iter().position(|id| *id as usize >= vocab_size) {
        Some(position) => {
            Err(EvalError::UnknownId { id: ids[position], index, position, vocab_size })
        }
        None => Ok(()),
    }
}
