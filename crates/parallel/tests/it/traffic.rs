//! Bytes sent in a step are those of the theory, on every rank, for every layout of the table.

use caravan_collective::threads;
use caravan_optim::{AdamW, AdamWConfig, ParamGroups, Placement};
use caravan_parallel::{Activations, Engine, Mesh, StepSettings, StepShape, expected_traffic};

use crate::common;
use crate::table::{Case, ROWS, SEQ_LEN, close_cases, exact_cases, fast_cases};

/// Runs two updates and holds what the second one sent against the theory.
fn check(case: &Case, activations: Activations) {
    let config = case.config();
    let step = StepShape { n_micro_batches: case.n, rows: ROWS, seq_len: SEQ_LEN, activations };
    let apart = threads::run(case.layout.world(), |world| {
        let rank = world.rank();
        let mesh = Mesh::new(world, &case.layout).unwrap();
        let device = common::device();
        let mut engine =
            Engine::init(&config, 11, caravan_model::Kernels::Fused, &device, case.layout, mesh)
                .unwrap();
        let mut optimizer = AdamW::new(AdamWConfig::default(), Placement::Host).unwrap();
        let groups = ParamGroups::default();
        let mut sent = Vec::new();
        for i in 0..2 {
            let indices = engine.micro_batches(case.n);
            let batches: Vec<_> = indices.iter().map(|index| case.batch(i, *index)).collect();
            let settings = StepSettings {
                lr: 1e-3,
                weight_decay: 0.1,
                groups: &groups,
                grad_clip: 1.0,
                activations,
            };
            let before = engine.traffic();
            engine.step(&mut optimizer, case.n, &batches, settings).unwrap();
            let pairs = before.into_iter().zip(engine.traffic());
            sent = pairs.map(|(a, b)| (b.0, b.1.bytes_sent - a.1.bytes_sent)).collect();
        }
        let expected: Vec<_> =
            expected_traffic(&case.layout, &config, step, rank).into_iter().collect();
        sent.sort_unstable();
        (sent != expected).then(|| format!("rank {rank} sent {sent:?}, theory {expected:?}"))
    });
    let apart: Vec<String> = apart.unwrap().into_iter().flatten().collect();
    assert!(apart.is_empty(), "{case:?} {activations:?}:\n{}", apart.join("\n"));
}

#[test]
fn bytes_are_those_of_the_theory() {
    let cases = [exact_cases(), close_cases(), fast_cases()].concat();
    for case in &cases {
        for activations in [Activations::Keep, Activations::Recompute] {
            check(case, activations);
        }
    }
}
