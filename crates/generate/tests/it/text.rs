use std::ops::ControlFlow;

use caravan_generate::{GenerateError, Generated, Options, Sampler, Stop, generate};
use caravan_model::Kernels;
use caravan_tokenizer::{ByteTokenizer, Encode};

use crate::decode::model;

fn options(stop: &[&str], max_tokens: usize) -> Options {
    let sampler = Sampler { seed: 4, ..Sampler::default() };
    let stop = stop.iter().map(|s| (*s).to_owned()).collect();
    Options { sampler, max_tokens, stop, ..Options::default() }
}

/// The generation and the pieces it was streamed in.
fn run(options: &Options, limit: usize) -> (Generated, Vec<String>) {
    let tokenizer = ByteTokenizer::new();
    let model = model(tokenizer.vocab_size(), 128, Kernels::Fused);
    let mut pieces = Vec::new();
    let generated = generate(&model, &tokenizer, "Llamas", options, &mut |text| {
        pieces.push(text.to_owned());
        if pieces.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    (generated.unwrap(), pieces)
}

#[test]
fn the_stream_is_the_text_of_the_ids() {
    let (generated, pieces) = run(&options(&[], 80), usize::MAX);
    let tokenizer = ByteTokenizer::new();
    assert_eq!(generated.prompt_ids, [256, 76, 108, 97, 109, 97, 115]);
    assert_eq!(generated.text, tokenizer.decode(&generated.ids).unwrap());
    assert_eq!(pieces.concat(), generated.text);
    assert!(pieces.len() > 5 && pieces.iter().all(|piece| !piece.is_empty()), "{pieces:?}");
    assert!(!generated.ids.contains(&257));
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let (whole, _) = run(&options(&[], 80), usize::MAX);
    let start = whole.text.char_indices().nth(5).unwrap().0;
    let end = whole.text.char_indices().nth(8).unwrap().0;
    let stop = &whole.text[start..end];
    let (stopped, pieces) = run(&options(&["never, surely", stop], 80), usize::MAX);
    let before = whole.text.find(stop).unwrap();
    assert_eq!((stopped.stop, stopped.text.as_str()), (Stop::StopString, &whole.text[..before]));
    assert_eq!(pieces.concat(), stopped.text);
    assert!(stopped.ids.len() < whole.ids.len() && whole.ids.starts_with(&stopped.ids));
}

#[test]
fn the_callback_ends_it() {
    let (generated, pieces) = run(&options(&[], 80), 3);
    assert_eq!((generated.stop, pieces.len()), (Stop::Callback, 3));
    assert_eq!(pieces.concat(), generated.text);
}

#[test]
fn a_foreign_tokenizer_is_refused() {
    let model = model(200, 64, Kernels::Fused);
    let mut ignore = |_: &str| ControlFlow::Continue(());
    let error =
        generate(&model, &ByteTokenizer::new(), "x", &Options::default(), &mut ignore).unwrap_err();
    assert!(matches!(error, GenerateError::Vocabulary { tokenizer: 258, model: 200 }), "{error}");
    let long = "x".repeat(64);
    let model = crate::decode::model(258, 64, Kernels::Fused);
    let error = generate(&model, &ByteTokenizer::new(), &long, &Options::default(), &mut ignore)
        .unwrap_err();
    assert!(
        error.to_string().contains("65 tokens") && error.to_string().contains("holds 64"),
        "{error}"
    );
}
