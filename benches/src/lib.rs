//! Shared set-up of the benches: the compiled-in devices, the corpus.

use burn::tensor::Device;

/// Every device that this build has, by name.
pub fn devices() -> Vec<(&'static str, Device)> {
    ["flex", "tch", "cuda"]
        .into_iter()
        .filter_map(|name| Some((name, caravan_model::device::parse(name).ok()?)))
        .collect()
}

/// The stories of the fixtures, one line each.
///
/// # Panics
/// If the repository's fixtures are missing.
pub fn corpus() -> Vec<String> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures");
    ["stories.en.jsonl", "stories.zh.jsonl"]
        .iter()
        .flat_map(|name| {
            let text = std::fs::read_to_string(format!("{dir}/{name}"))
                .expect("the fixtures are in the repository");
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
}
