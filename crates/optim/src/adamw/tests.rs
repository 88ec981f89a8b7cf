use proptest::prelude::*;

use super::*;

fn values(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 * 1e-3 - 1.0).collect()
}

fn tensor_of(values: &[f32]) -> Tensor<1> {
    tensor(values.to_vec(), &Device::flex())
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Steps `from..to` on the range `at` of a parameter, with gradients and rates that depend on the step.
fn train(
    adamw: &mut AdamW,
    path: &str,
    param: &[f32],
    at: std::ops::Range<usize>,
    n: usize,
    steps: std::ops::Range<usize>,
) -> Vec<f32> {
    let mut param = tensor_of(param);
    for step in steps {
        let grad = tensor_of(&values(n, step + 1)[at.clone()]);
        let scale = if step % 2 == 0 { 1.0 } else { 0.37 };
        param = adamw.step_scaled(path, param, grad, scale, 1e-2 / (step + 1) as f64, 0.1);
    }
    host_values(param)
}

fn new(placement: Placement) -> AdamW {
    AdamW::new(AdamWConfig::default(), placement).unwrap()
}

#[test]
fn host_and_device_give_the_same_bits() {
    let n = 40_000;
    let [a, b] = [Placement::Host, Placement::Device].map(|placement| {
        let mut adamw = new(placement);
        let param = train(&mut adamw, "w", &values(n, 0), 0..n, n, 0..5);
        (bits(&param), adamw.export("w").unwrap())
    });
    assert_eq!(a.0, b.0);
    assert_eq!(a.1, b.1);
}

#[test]
fn the_first_step_moves_by_the_learning_rate() {
    for placement in [Placement::Host, Placement::Device] {
        let mut adamw = new(placement);
        let got = host_values(adamw.step(
            "w",
            tensor_of(&[2.0, 2.0, 2.0]),
            tensor_of(&[0.5, -3.0, 0.0]),
            0.01,
            0.1,
        ));
        // 2 * (1 - 0.01 * 0.1) = 1.998, then minus lr times the sign of the gradient.
        for (g, e) in got.iter().zip([1.988, 2.008, 1.998]) {
            assert!((g - e).abs() < 1e-6, "{g} against {e}");
        }
        assert_eq!(adamw.export("w").unwrap().step, 1);
        assert_eq!(adamw.paths().collect::<Vec<_>>(), ["w"]);
    }
}

#[test]
fn a_restored_optimizer_goes_on_with_the_same_bits() {
    let n = 1000;
    for placement in [Placement::Host, Placement::Device] {
        let mut whole = new(placement);
        let expected = train(&mut whole, "w", &values(n, 0), 0..n, n, 0..6);

        let mut before = new(placement);
        let half = train(&mut before, "w", &values(n, 0), 0..n, n, 0..3);
        let state = before.export("w").unwrap();
        assert_eq!(state.step, 3);
        // Restored in the other placement too: where the update runs is no part of the state.
        for after in [Placement::Host, Placement::Device] {
            let mut after = new(after);
            after.import("w", n, state.clone(), &Device::flex().autodiff()).unwrap();
            assert_eq!(after.export("w").unwrap(), state);
            let got = train(&mut after, "w", &half, 0..n, n, 3..6);
            assert_eq!(bits(&got), bits(&expected));
        }
    }
}

#[test]
fn state_of_another_size_is_refused() {
    let state = ParamState { step: 1, moment1: vec![0.0; 4], moment2: vec![0.0; 3] };
    let error = new(Placement::Host).import("w", 4, state, &Device::flex()).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("`w`: moment2 has 3 elements, expected 4\nhelp: "), "{message}");
}

#[test]
fn an_autodiff_parameter_comes_back_as_a_leaf() {
    let device = Device::flex().autodiff();
    for placement in [Placement::Host, Placement::Device] {
        let param = Tensor::<1>::from_floats([1.0, 2.0], &device).require_grad();
        let grads = (param.clone() * param.clone()).sum().backward();
        let grad = param.grad(&grads).unwrap();
        let updated = new(placement).step("w", param, grad, 0.1, 0.0);
        assert!(updated.is_autodiff() && updated.is_require_grad());
        let grads = (updated.clone() * updated.clone()).sum().backward();
        assert!(updated.grad(&grads).is_some());
    }
}

#[test]
#[should_panic(expected = "`w`: parameter and gradient differ in length")]
fn lengths_must_agree() {
    let _ = new(Placement::Host).step("w", tensor_of(&[1.0]), tensor_of(&[1.0, 2.0]), 0.1, 0.0);
}

#[test]
fn bad_settings_are_refused() {
    let base = AdamWConfig::default();
    for (config, expected) in [
        (AdamWConfig { beta1: 1.0, ..base }, "beta1 is 1, expected a number from 0 to below 1"),
        (AdamWConfig { beta2: -0.1, ..base }, "beta2 is -0.1"),
        (AdamWConfig { beta2: f64::NAN, ..base }, "beta2 is NaN"),
        (AdamWConfig { beta2: 1.0 - 1e-12, ..base }, "beta2 is 0.999999999999"),
        (AdamWConfig { eps: 0.0, ..base }, "eps is 0, expected a positive number"),
        (AdamWConfig { eps: f64::INFINITY, ..base }, "eps is inf"),
    ] {
        let message = AdamW::new(config, Placement::Host).unwrap_err().to_string();
        assert!(message.starts_with(expected) && message.contains("\nhelp: "), "{message}");
    }
}

proptest! {
    #[test]
    fn any_split_of_a_parameter_gives_the_same_bits(
        n in 1usize..50_000, cut in 0.0f64..=1.0, host in any::<bool>(),
    ) {
        let placement = if host { Placement::Host } else { Placement::Device };
        let cut = (n as f64 * cut) as usize;
        let init = values(n, 0);
        let whole = train(&mut new(placement), "w", &init, 0..n, n, 0..3);
        let mut parts = Vec::new();
        for (path, at) in [("first", 0..cut), ("second", cut..n)] {
            if !at.is_empty() {
                let part = &init[at.clone()];
                parts.extend(train(&mut new(placement), path, part, at, n, 0..3));
            }
        }
        prop_assert_eq!(bits(&parts), bits(&whole));
    }
}
