//! Against `torch.optim.AdamW` and `clip_grad_norm_` in float64 (see `tests/python`).

use std::process::Command;

use burn::tensor::{Device, Tensor};
use caravan_optim::{
    AdamW, AdamWConfig, LrSchedule, ParamGroups, Placement, Schedule, ScheduleConfig, clip_scale,
    squared_norm,
};
use serde::Deserialize;

const TEXT: &str = include_str!("../golden/adamw.json");

/// Six steps of about six f32 roundings each, on values and updates of order one: some tens of units in
/// the last place (6e-8), of which 1e-6 leaves a margin; a wrong formula is off by 1e-3 and more.
const TOLERANCE: f64 = 1e-6;

/// Terms of up to 0.5 cancel in the moments, whose rounding is that of the terms.
const FLOOR: f64 = 0.05;

#[derive(Deserialize)]
struct Golden {
    peak_lr: f64,
    min_lr: f64,
    warmup_steps: u64,
    steps: u64,
    max_norm: f64,
    weight_decay: f64,
    betas: [f64; 2],
    eps: f64,
    norms: Vec<f64>,
    lr: Vec<f64>,
    tensors: Vec<Parameter>,
}

#[derive(Deserialize)]
struct Parameter {
    path: String,
    shape: Vec<usize>,
    init: Vec<f64>,
    grads: Vec<Vec<f64>>,
    params: Vec<f64>,
    exp_avg: Vec<f64>,
    exp_avg_sq: Vec<f64>,
}

fn to_f32(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| v as f32).collect()
}

fn assert_close(what: &str, got: &[f32], expected: &[f64]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (&g, &e)) in got.iter().zip(expected).enumerate() {
        let bound = TOLERANCE * e.abs().max(FLOOR);
        assert!((f64::from(g) - e).abs() <= bound, "{what}[{i}]: {g} against {e}");
    }
}

fn follows_torch(placement: Placement) {
    let golden: Golden = serde_json::from_str(TEXT).unwrap();
    let device = Device::flex();
    let [beta1, beta2] = golden.betas;
    let config = AdamWConfig { beta1, beta2, eps: golden.eps };
    let mut adamw = AdamW::new(config, placement).unwrap();
    let schedule = LrSchedule::new(ScheduleConfig {
        schedule: Schedule::Cosine,
        peak_lr: golden.peak_lr,
        min_lr: golden.min_lr,
        warmup_steps: golden.warmup_steps,
        steps: golden.steps,
        ..ScheduleConfig::default()
    })
    .unwrap();
    let groups = ParamGroups::default();
    let flat = |values: &[f64]| Tensor::<1>::from_floats(to_f32(values).as_slice(), &device);
    let mut params: Vec<Tensor<1>> = golden.tensors.iter().map(|t| flat(&t.init)).collect();

    for (step, (&norm, &lr)) in golden.norms.iter().zip(&golden.lr).enumerate() {
        let squares = golden.tensors.iter().map(|t| squared_norm(&to_f32(&t.grads[step])));
        let found = squares.sum::<f64>().sqrt();
        assert!((found - norm).abs() <= 1e-12 * norm, "step {step}: norm {found} against {norm}");
        assert!((schedule.lr(step as u64) - lr).abs() <= 1e-15, "step {step}: lr");
        let scale = clip_scale(found, golden.max_norm);
        params = std::mem::take(&mut params)
            .into_iter()
            .zip(&golden.tensors)
            .map(|(param, t)| {
                let decay = groups.decay(&t.path, &t.shape, golden.weight_decay);
                adamw.step_scaled(&t.path, param, flat(&t.grads[step]), scale, lr, decay)
            })
            .collect();
    }

    for (param, t) in params.into_iter().zip(&golden.tensors) {
        let param: Vec<f32> = param.into_data().try_into_vec().unwrap();
        let state = adamw.export(&t.path).unwrap();
        assert_eq!(state.step, golden.norms.len() as u64);
        assert_close(&t.path, &param, &t.params);
        assert_close(&format!("{} exp_avg", t.path), &state.moment1, &t.exp_avg);
        // Squares of small gradients are compared by their roots, the size at which they act.
        let roots: Vec<f32> = state.moment2.iter().map(|v| v.sqrt()).collect();
        let expected: Vec<f64> = t.exp_avg_sq.iter().map(|v| v.sqrt()).collect();
        assert_close(&format!("{} exp_avg_sq", t.path), &roots, &expected);
    }
}

#[test]
fn on_the_device_as_torch() {
    follows_torch(Placement::Device);
}

#[test]
fn on_the_host_as_torch() {
    follows_torch(Placement::Host);
}

#[test]
fn python_makes_the_same_golden() {
    let Some(python) = crate::witness::python("python_makes_the_same_golden") else { return };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/make_adamw_golden.py");
    let output = Command::new(python).arg(script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let made: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let committed: serde_json::Value = serde_json::from_str(TEXT).unwrap();
    assert_same("", &made, &committed);
}

/// Equal up to the last digits of float64, which torch does not promise across processors.
fn assert_same(at: &str, a: &serde_json::Value, b: &serde_json::Value) {
    use serde_json::Value::{Array, Number, Object};
    match (a, b) {
        (Object(x), Object(y)) => {
            assert!(x.keys().eq(y.keys()), "{at}: other keys");
            x.iter().for_each(|(k, v)| assert_same(&format!("{at}.{k}"), v, &y[k]));
        }
        (Array(x), Array(y)) => {
            assert_eq!(x.len(), y.len(), "{at}");
            x.iter().zip(y).enumerate().for_each(|(i, (v, w))| {
                assert_same(&format!("{at}[{i}]"), v, w);
            });
        }
        (Number(x), Number(y)) => {
            let (x, y) = (x.as_f64().unwrap(), y.as_f64().unwrap());
            assert!((x - y).abs() <= 1e-12 * y.abs(), "{at}: {x} against {y}");
        }
        _ => assert_eq!(a, b, "{at}"),
    }
}
