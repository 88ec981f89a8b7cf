//! Initial weights against a second implementation, in Python.

use caravan_model::init::{Init, distribution, fill};
use caravan_model::{Kernels, Llama, preset};

use crate::support::{self, flex, parameters};

fn draw(seed: u64, path: &str, start: u64, n: usize) -> Vec<f32> {
    let mut values = vec![0.0; n];
    fill(Init::Normal { std: 1.0 }, seed, path, start, &mut values);
    values
}

/// Half a unit in the last place of f32, relative: ours are rounded once.
const ROUNDING: f64 = 6e-8;

fn assert_close(ours: &[f32], theirs: &[f64]) {
    assert_eq!(ours.len(), theirs.len());
    for (ours, theirs) in ours.iter().zip(theirs) {
        assert!(
            (f64::from(*ours) - theirs).abs() <= ROUNDING * theirs.abs(),
            "{ours} is not {theirs}"
        );
    }
}

/// Printed by `python crates/model/tests/python/init_values.py SEED PATH START COUNT`.
#[test]
fn golden_values() {
    let first = [
        -2.119660924619311,
        0.43659704798097876,
        -1.457815433994274,
        0.5194969538255974,
        0.42008383908635083,
        0.5554713758277994,
    ];
    assert_close(&draw(42, "embed.weight", 0, 6), &first);
    let later = [
        1.8853259923196906,
        -0.264303389452311,
        -0.6297849930510396,
        -0.6498627766569592,
        0.8757770408187758,
    ];
    assert_close(&draw(1_234_567_890_123, "blocks.0.wq.weight", 1_000_003, 5), &later);
}

#[test]
fn python_values() {
    let (path, start, n) = ("blocks.7.w_down.weight", (1u64 << 34) - 9, 500);
    let arguments = ["18446744073709551615", path, &start.to_string(), &n.to_string()];
    let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
    let Some(lines) = support::python("python_values", "init_values.py", &arguments) else {
        return;
    };
    let theirs: Vec<f64> = lines.iter().map(|line| line.parse().unwrap()).collect();
    assert_close(&draw(u64::MAX, path, start, n), &theirs);
}

#[test]
fn a_model_has_the_values_of_its_paths_and_seed() {
    let config = preset("tiny").unwrap();
    let device = flex();
    let model = Llama::init(&config, 9, Kernels::Fused, &device).unwrap();
    for (path, values) in parameters(&model) {
        let mut expected = vec![0.0; values.len()];
        fill(distribution(&config, &path), 9, &path, 0, &mut expected);
        assert!(values == expected, "{path}");
    }
    let other = Llama::init(&config, 10, Kernels::Fused, &device).unwrap();
    let differ =
        parameters(&model).iter().zip(parameters(&other)).filter(|(a, b)| a.1 != b.1).count();
    assert_eq!(differ, 2 * 7 + 2, "every matrix depends on the seed");
}
