//! Continuous batching: everybody gets what they would get alone, whoever comes and goes.

use std::collections::BTreeMap;

use caravan_generate::{Batcher, GenerateError, Request, RequestId, Sampler, Stop};
use caravan_model::Kernels;

use crate::decode::{model, run};

fn request(prompt: Vec<u32>, max_tokens: usize, sampler: Sampler) -> Request {
    Request { prompt, max_tokens, sampler, ends: Vec::new() }
}

/// Runs to the end; `between` is called before every step.
fn drain(
    batcher: &mut Batcher<'_>,
    between: &mut dyn FnMut(&mut Batcher<'_>, usize),
) -> BTreeMap<RequestId, (Vec<u32>, Stop)> {
    let (mut ids, mut done) = (BTreeMap::<RequestId, Vec<u32>>::new(), BTreeMap::new());
    let mut steps = 0;
    loop {
        between(batcher, steps);
        if batcher.is_idle() {
            return done;
        }
        for event in batcher.step() {
            let ids = ids.entry(event.request).or_default();
            ids.extend(event.id);
            if let Some(stop) = event.stop {
                done.insert(event.request, (ids.clone(), stop));
            }
        }
        steps += 1;
        assert!(steps < 2000, "requests must come to an end");
    }
}

#[test]
fn everybody_gets_what_they_would_get_alone() {
    for kernels in [Kernels::Reference, Kernels::Fused] {
        let model = model(97, 64, kernels);
        let mut batcher = Batcher::new(&model, 5, usize::MAX);
        let prompt =
            |i: usize| (0..1 + i * 7 % 23).map(|p| ((p * 31 + i * 17) % 97) as u32).collect();
        let sampler = |i: usize| match i % 3 {
            0 => Sampler::greedy(),
            1 => Sampler { seed: i as u64, ..Sampler::default() },
            _ => Sampler {
                temperature: 0.8,
                repetition_penalty: 1.3,
                frequency_penalty: 0.2,
                seed: i as u64,
                ..Sampler::default()
            },
        };
        let length = |i: usize| 1 + i * 5 % 37;
        let mut submitted = Vec::new();
        // A few at first, the rest while they run.
        let done = drain(&mut batcher, &mut |batcher, step| {
            let upto = if step == 0 { 7 } else { (7 + step).min(20) };
            for i in submitted.len()..upto {
                let id = batcher.submit(request(prompt(i), length(i), sampler(i))).unwrap();
                submitted.push(id);
            }
            assert!(batcher.running() <= 5);
        });
        assert_eq!(done.len(), 20);
        for (i, id) in submitted.iter().enumerate() {
            let alone = run(&model, &prompt(i), None, &sampler(i), length(i)).unwrap();
            assert_eq!(done[id], alone, "{kernels:?}, request {i}");
        }
    }
}

#[test]
fn a_long_prompt_goes_in_by_chunks() {
    let model = model(97, 1024, Kernels::Fused);
    let prompt: Vec<u32> = (0..700).map(|i| (i * i % 97) as u32).collect();
    let mut batcher = Batcher::new(&model, 2, usize::MAX);
    let short = batcher.submit(request(vec![5], 8, Sampler::greedy())).unwrap();
    let long = batcher.submit(request(prompt.clone(), 8, Sampler::greedy())).unwrap();
    let mut before = 0;
    loop {
        let events = batcher.step();
        if events.iter().any(|e| e.request == long) {
            break;
        }
        before += events.iter().filter(|e| e.request == short).count();
    }
    assert!(before >= 2, "the short request goes on while the long prompt is read");
    let done = drain(&mut batcher, &mut |_, _| {});
    let alone = run(&model, &prompt, None, &Sampler::greedy(), 8).unwrap();
    // Its first id came before.
    assert_eq!(done[&long].0, alone.0[1..]);
}

#[test]
fn ends_limits_and_cancelling() {
    let model = model(97, 32, Kernels::Fused);
    let greedy = Sampler::greedy();
    let (ids, _) = run(&model, &[1, 2], None, &greedy, 20).unwrap();
    let end = ids[3];
    let n = ids.iter().position(|id| *id == end).unwrap();
    let mut batcher = Batcher::new(&model, 2, usize::MAX);
    let first = batcher
        .submit(Request { ends: vec![96, end], ..request(vec![1, 2], 20, greedy.clone()) })
        .unwrap();
    let full = batcher.submit(request(vec![3; 30], 20, greedy.clone())).unwrap();
    let none = batcher.submit(request(vec![3], 0, greedy.clone())).unwrap();
    let gone = batcher.submit(request(vec![4], 20, greedy.clone())).unwrap();
    let waiting = batcher.submit(request(vec![4], 20, greedy.clone())).unwrap();
    let done = drain(&mut batcher, &mut |batcher, step| {
        if step == 0 {
            batcher.cancel(waiting);
        }
        if step == 8 {
            batcher.cancel(gone);
        }
    });
    assert_eq!(done[&first], (ids[..n].to_vec(), Stop::Eos));
    assert_eq!((done[&full].0.len(), done[&full].1), (2, Stop::ContextFull));
    assert_eq!(done[&none], (vec![], Stop::MaxTokens));
    assert_eq!(done.len(), 3);
    assert!(matches!(
        batcher.submit(request(vec![0; 32], 1, greedy.clone())),
        Err(GenerateError::PromptTooLong { found: 32, limit: 32 })
    ));
    let bad = Sampler { min_p: Some(2.0), ..greedy };
    assert!(matches!(
        batcher.submit(request(vec![1], 1, bad)),
        Err(GenerateError::Share { name: "min_p", .. })
    ));
}

#[test]
fn log_probs_are_the_models_own() {
    let model = model(97, 32, Kernels::Fused);
    let mut batcher = Batcher::new(&model, 2, usize::MAX);
    batcher.submit(request(vec![7, 8], 1, Sampler::greedy())).unwrap();
    let events = batcher.step();
    let found = events[0].log_prob.unwrap();
    // Greedy: no other token is likelier, and 97 equal ones would have ln(1/97).
    assert!(found < 0.0 && found > -(97f64.ln()), "{found}");
}
