use std::ops::ControlFlow;

use burn::tensor::{Device, Int, Tensor, TensorData};
use caravan_generate::{Decoding, GenerateError, Sampler, Stop, decode};
use caravan_model::{Forward, Kernels, Llama, LlamaConfig, preset};

pub(crate) fn model(vocab_size: usize, max_seq_len: usize, kernels: Kernels) -> Llama {
    let config = LlamaConfig {
        vocab_size,
        d_model: 48,
        n_layers: 2,
        n_heads: 6,
        n_kv_heads: 2,
        head_dim: 8,
        d_ff: 100,
        max_seq_len,
        init_std: 0.3, // far from uniform, so that greedy choices are clear
        ..preset("tiny").unwrap()
    };
    Llama::init(&config, 5, kernels, &Device::flex()).unwrap()
}

/// What the decode loop should do, with a full forward pass per token and no cache.
pub(crate) fn by_full_passes(
    model: &Llama,
    prompt: &[u32],
    sampler: &Sampler,
    n: usize,
) -> Vec<u32> {
    let mut ids = prompt.to_vec();
    for _ in 0..n {
        let data = TensorData::new(ids.iter().map(|id| *id as i32).collect(), [1, ids.len()]);
        let logits = model.logits(Tensor::<2, Int>::from_data(data, &Device::flex()), None);
        let vocab = logits.dims()[2];
        let all: Vec<f32> = logits.into_data().try_into_vec().unwrap();
        ids.push(sampler.sample(&all[all.len() - vocab..], ids.len()).unwrap());
    }
    ids.split_off(prompt.len())
}

pub(crate) fn how<'a>(ends: &'a [u32], sampler: &'a Sampler, max_tokens: usize) -> Decoding<'a> {
    Decoding { sampler, max_tokens, ends, n_ids: usize::MAX, window: false }
}

pub(crate) fn run(
    model: &Llama,
    prompt: &[u32],
    eos: Option<u32>,
    sampler: &Sampler,
    max_tokens: usize,
) -> Result<(Vec<u32>, Stop), GenerateError> {
    let mut on_id = |_| Ok(ControlFlow::Continue(()));
    decode(model, prompt, how(eos.as_slice(), sampler, max_tokens), &mut on_id)
}

#[test]
fn the_cache_changes_nothing() {
    let samplers = [
        Sampler::greedy(),
        Sampler { seed: 1, ..Sampler::default() },
        Sampler {
            temperature: 0.7,
            top_k: Some(20),
            top_p: Some(0.9),
            seed: 2,
            ..Sampler::default()
        },
    ];
    for kernels in [Kernels::Reference, Kernels::Fused] {
        let model = model(97, 64, kernels);
        for sampler in &samplers {
            for prompt in [&[3u32][..], &[1, 2, 3, 4, 5, 60, 70, 80, 90]] {
                let (ids, stop) = run(&model, prompt, None, sampler, 40).unwrap();
                assert_eq!(stop, Stop::MaxTokens);
                assert_eq!(
                    ids,
                    by_full_passes(&model, prompt, sampler, 40),
                    "{kernels:?} {sampler:?}"
                );
            }
        }
    }
}

#[test]
fn a_generation_can_be_resumed() {
    let model = model(97, 64, Kernels::Fused);
    let sampler = Sampler { seed: 9, ..Sampler::default() };
    let (whole, _) = run(&model, &[1, 2], None, &sampler, 30).unwrap();
    let half: Vec<u32> = [1, 2].into_iter().chain(whole[..13].iter().copied()).collect();
    assert_eq!(run(&model, &half, None, &sampler, 17).unwrap().0, whole[13..]);
    let other = Sampler { seed: 10, ..sampler };
    assert_ne!(run(&model, &[1, 2], None, &other, 30).unwrap().0, whole);
}

#[test]
fn it_stops_where_it_should() {
    let model = model(97, 16, Kernels::Fused);
    let sampler = Sampler { seed: 9, ..Sampler::default() };
    let (ids, stop) = run(&model, &[1, 2, 3], None, &sampler, 100).unwrap();
    assert_eq!((ids.len(), stop), (13, Stop::ContextFull));
    let eos = ids[4];
    let before = ids.iter().position(|id| *id == eos).unwrap();
    assert_eq!(
        run(&model, &[1, 2, 3], Some(eos), &sampler, 100).unwrap(),
        (ids[..before].to_vec(), Stop::Eos)
    );
    assert_eq!(
        run(&model, &[1, 2, 3], None, &sampler, 13).unwrap(),
        (ids.clone(), Stop::MaxTokens)
    );
    assert_eq!(run(&model, &[1, 2, 3], None, &sampler, 0).unwrap(), (vec![], Stop::MaxTokens));
    assert_eq!(run(&model, &[0; 15], None, &sampler, 9).unwrap().0.len(), 1);

    let mut seen = Vec::new();
    let mut on_id = |id| {
        seen.push(id);
        Ok::<_, GenerateError>(if seen.len() == 3 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    };
    let broken = decode(&model, &[1, 2, 3], how(&[], &sampler, 100), &mut on_id).unwrap();
    assert_eq!(broken, (ids[..3].to_vec(), Stop::Callback));
}

#[test]
fn ids_beyond_the_tokenizer_are_never_chosen() {
    let model = model(97, 64, Kernels::Fused);
    let sampler = Sampler { temperature: 3.0, ..Sampler::default() };
    let mut on_id = |_| Ok::<_, GenerateError>(ControlFlow::Continue(()));
    let (ids, _) =
        decode(&model, &[1], Decoding { n_ids: 10, ..how(&[], &sampler, 60) }, &mut on_id).unwrap();
    assert!(ids.iter().all(|id| *id < 10) && ids.iter().any(|id| *id > 5), "{ids:?}");
}

#[test]
fn a_prompt_that_cannot_be_continued_is_refused() {
    let model = model(97, 16, Kernels::Fused);
    let greedy = Sampler::greedy();
    let error = run(&model, &[0; 16], None, &greedy, 1).unwrap_err();
    assert!(matches!(error, GenerateError::PromptTooLong { found: 16, limit: 16 }), "{error}");
    assert!(matches!(run(&model, &[], None, &greedy, 1), Err(GenerateError::EmptyPrompt)));
    let error = run(&model, &[5, 97], None, &greedy, 1).unwrap_err();
    assert!(matches!(error, GenerateError::UnknownId { id: 97, position: 1, .. }), "{error}");
    let negative = Sampler { temperature: -1.0, ..greedy };
    assert!(matches!(
        run(&model, &[5], None, &negative, 0),
        Err(GenerateError::Temperature { .. })
    ));
}
