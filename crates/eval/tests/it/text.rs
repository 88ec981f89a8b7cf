use caravan_eval::{EvalDocument, EvalError, TextOptions, TextScore, evaluate_text};
use caravan_model::Llama;
use caravan_tokenizer::ByteTokenizer;

use crate::common::{log_softmax_after, model};

const BOS: u32 = 95;
const EOS: u32 = 96;

/// Documents of 0 to 60 tokens; each byte count is made up, since nothing checks it against the tokens.
fn documents() -> Vec<EvalDocument> {
    [5usize, 0, 60, 1, 17, 16, 15, 33, 8, 2, 3]
        .iter()
        .enumerate()
        .map(|(d, n)| {
            let text = (0..*n).map(|i| ((i * 37 + d * 11 + i * i) % 95) as u32);
            EvalDocument {
                tokens: [BOS].into_iter().chain(text).chain([EOS]).collect(),
                n_bytes: 2 * *n as u64,
            }
        })
        .collect()
}

/// By definition: every text token once, given its window up to it.
fn naive(model: &Llama, seq_len: usize, stride: usize) -> (f64, u64) {
    let (mut nats, mut n) = (0.0, 0);
    for EvalDocument { tokens, .. } in documents() {
        for target in 1..tokens.len() - 1 {
            // The first window whose inputs reach `target - 1`; windows begin at multiples of the stride.
            let start = (0..).step_by(stride).find(|start| start + seq_len >= target).unwrap();
            nats -= log_softmax_after(model, &tokens[start..target])[tokens[target] as usize];
            n += 1;
        }
    }
    (nats, n)
}

fn close(score: &TextScore, nats: f64) {
    // f32 forward passes of other shapes: rounding only.
    assert!((score.nats / nats - 1.0).abs() < 2e-6, "{} for {nats}", score.nats);
}

#[test]
fn each_token_counts_once_with_its_windows_context() {
    let model = model(97, 64);
    for (seq_len, stride) in [(16, 16), (16, 4), (16, 1), (64, 64), (7, 5), (1, 1)] {
        let (nats, n) = naive(&model, seq_len, stride);
        for rows in [1, 3, 8] {
            for packed in [false, true] {
                let options = TextOptions { seq_len, stride, rows, packed };
                let score = evaluate_text(&model, documents(), &options).unwrap();
                close(&score, nats);
                let counts = (score.n_tokens, score.n_bytes, score.n_documents);
                assert_eq!(counts, (n, 2 * n, 11), "{options:?}");
            }
        }
    }
}

#[test]
fn more_context_only_adds_to_what_a_token_sees() {
    // Not equal: the smaller stride must really have used other contexts.
    let model = model(97, 64);
    let score = |stride| {
        let options = TextOptions { seq_len: 16, stride, rows: 4, packed: true };
        evaluate_text(&model, documents(), &options).unwrap().nats
    };
    assert!((score(16) - score(4)).abs() > 0.1);
}

#[test]
fn means_are_taken_at_the_end() {
    let score =
        TextScore { nats: 8.0 * std::f64::consts::LN_2, n_tokens: 4, n_bytes: 16, n_documents: 1 };
    assert!((score.bits_per_byte() - 0.5).abs() < 1e-12);
    assert!((score.perplexity() - 4.0).abs() < 1e-12);
}

#[test]
fn text_becomes_a_document_with_both_ends() {
    let document = EvalDocument::from_text(&ByteTokenizer::new(), "né").unwrap();
    assert_eq!((document.tokens, document.n_bytes), (vec![256, 110, 195, 169, 257], 3));
}

#[test]
fn what_cannot_be_scored_is_refused() {
    let model = model(97, 64);
    let options = TextOptions { seq_len: 16, stride: 16, rows: 2, packed: false };
    let score = |tokens: &[u32], options: &TextOptions| {
        evaluate_text(&model, [EvalDocument { tokens: tokens.to_vec(), n_bytes: 1 }], options)
    };
    for bad in [
        TextOptions { seq_len: 65, ..options },
        TextOptions { stride: 17, ..options },
        TextOptions { stride: 0, ..options },
        TextOptions { rows: 0, ..options },
    ] {
        assert!(matches!(score(&[BOS, 1, EOS], &bad), Err(EvalError::Windows { .. })), "{bad:?}");
    }
    for tokens in [&[][..], &[BOS]] {
        let found = tokens.len();
        assert!(
            matches!(score(tokens, &options), Err(EvalError::Document { index: 0, found: f }) if f == found)
        );
    }
    let error = score(&[BOS, 5, 97, EOS], &options).unwrap_err();
    assert!(matches!(error, EvalError::UnknownId { id: 97, position: 2, .. }), "{error}");
    assert!(matches!(score(&[BOS, EOS], &options), Err(EvalError::NoText)));
    assert!(matches!(evaluate_text(&model, [], &options), Err(EvalError::NoText)));
}
