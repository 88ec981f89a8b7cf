//! A model by its name, from a hub on this machine to a text.

#[path = "../../../hub/tests/it/server.rs"]
mod server;

use crate::support::{command, folder, ok, train_args};

#[test]
fn a_model_is_used_by_its_name() {
    let (_guard, dir) = folder();
    ok(&dir, &train_args("run", &["steps=2"]));
    ok(&dir, &["export", "--run", "run", "--out", "model"]);
    let written = |model: &str| -> Vec<String> {
        ["generate", "--prompt", "The fox", "--max-tokens", "6", "--temperature", "0", "--model"]
            .iter()
            .map(|word| (*word).to_owned())
            .chain([model.to_owned()])
            .collect()
    };
    let files: Vec<(String, Vec<u8>)> = std::fs::read_dir(dir.join("model"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())
        })
        .collect();
    let named: Vec<(&str, &str, &[u8])> =
        files.iter().map(|(name, bytes)| (name.as_str(), name.as_str(), &bytes[..])).collect();
    let hub = server::Server::start(&named);
    let ask = |args: Vec<String>| {
        let words: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut command = command(&dir, &words);
        command.env("HF_ENDPOINT", &hub.endpoint).env("HF_HOME", dir.join("home"));
        command.output().unwrap()
    };
    let here = ask(written("model"));
    let there = ask(written("hf:owner/name"));
    let said = String::from_utf8_lossy(&there.stderr).into_owned();
    assert!(there.status.success(), "{said}");
    assert_eq!(here.stdout, there.stdout);
    let snapshot = dir.join("home/hub/models--owner--name/snapshots").join(server::COMMIT);
    assert!(snapshot.join("config.json").exists(), "{said}");
    // Nothing but the list of files crosses the second time, and the path is printed.
    let before = hub.asked.lock().unwrap().len();
    let path = ask(vec!["download".to_owned(), "owner/name".to_owned()]);
    assert_eq!(String::from_utf8_lossy(&path.stdout).trim(), snapshot.to_string_lossy());
    assert_eq!(hub.asked.lock().unwrap().len(), before + 1);
    assert!(hub.breaks.lock().unwrap().is_empty());
    let other = ask(written("hf:owner/other"));
    let said = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(!other.status.success() && said.contains("says 404\nhelp: "), "{said}");
}
