//! Save and load MB/s of a checkpoint of 100 MB: weights and both moments of the preset `8m`.
//!
//! `cargo test --release -p caravan-checkpoint --test it measure -- --ignored --nocapture`

use std::time::Instant;

use caravan_checkpoint::{Meta, SaveTensor, open_latest, save};

#[test]
#[ignore = "a measurement"]
fn rates() {
    let root = tempfile::tempdir().unwrap();
    let (n_tensors, n) = (100, 250_000);
    let values = crate::make::weights(1, n);
    let megabytes = (n_tensors * n * 4) as f64 / 1e6;
    for step in 0..3 {
        let mut tensors = (0..n_tensors).map(|i| {
            let values = &values;
            SaveTensor::lazy_f32(format!("model/{i}"), &[n], move || values.clone())
        });
        let start = Instant::now();
        save(root.path(), step, &Meta::default(), &mut tensors).unwrap();
        let saved = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let checkpoint = open_latest(root.path()).unwrap().unwrap();
        let opened = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let mut sum = 0.0;
        for i in 0..n_tensors {
            sum += checkpoint.f32_values(&format!("model/{i}")).unwrap()[i];
        }
        let loaded = start.elapsed().as_secs_f64();
        eprintln!(
            "{megabytes} MB: save {:.0} MB/s ({:.0} ms), open and verify {:.0} MB/s, copy out {:.0} MB/s ({sum})",
            megabytes / saved,
            saved * 1e3,
            megabytes / opened,
            megabytes / loaded
        );
    }
}
