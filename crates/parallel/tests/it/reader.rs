//! Reading a model that is spread over ranks, against the whole one.

use burn::module::Module;
use burn::tensor::{Int, Tensor, TensorData};
use caravan_collective::threads;
use caravan_model::{Branches, Forward, Kernels};
use caravan_parallel::{Engine, Layout, Mesh};

use crate::common::{config, device, model};
use crate::ranks::close;

/// A question with two answers, and a text of its own.
fn scores(model: &dyn Forward) -> Vec<f32> {
    let mut branches = Branches::default();
    let question = branches.add(None, 6);
    branches.add(Some(question), 4);
    branches.add(Some(question), 3);
    branches.add(None, 5);
    let ids: Vec<i32> = (0..18).map(|i| i * 29 % 97).collect();
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, 18]), &model.device());
    let asked: Vec<(usize, u32)> = (5..18).map(|place| (place, place as u32 * 7 % 97)).collect();
    let scores = model.branch_scores(tokens, &branches, &asked);
    assert_eq!(scores.dims(), [13, 2]);
    scores.into_data().try_into_vec().unwrap()
}

#[test]
fn texts_in_branches_have_the_same_scores_on_any_ranks() {
    let layouts = [
        Layout { pipeline: 3, ..Layout::default() },
        Layout { tensor: 2, sequence_parallel: true, ..Layout::default() },
        Layout { data: 2, zero_stage: 3, ..Layout::default() },
        Layout { context: 2, ..Layout::default() },
        Layout { pipeline: 2, tensor: 2, ..Layout::default() },
    ];
    for tie in [false, true] {
        let expected = scores(&model(&config(tie), Kernels::Fused).valid());
        for layout in layouts {
            let ranks = threads::run(layout.world(), |world| {
                let mesh = Mesh::new(world, &layout).unwrap();
                let (config, device) = (config(tie), device());
                let engine = Engine::init(&config, 11, Kernels::Fused, &device, layout, mesh);
                let engine = engine.unwrap();
                engine.is_read_here().then(|| scores(&engine.reader()))
            });
            let ranks: Vec<Vec<f32>> = ranks.unwrap().into_iter().flatten().collect();
            assert!(!ranks.is_empty());
            for found in ranks {
                close(&format!("{}, tied {tie}", layout.describe()), &found, &expected).unwrap();
            }
        }
    }
}
