//! Downloads from a hub on this machine.

#![allow(clippy::unwrap_used)]

mod server;

use std::path::PathBuf;

use caravan_hub::{Event, Hub, HubError, Repo};
use server::{COMMIT, Server};

/// SHA-256 of `"weights ".repeat(1000)`, as `sha256sum` gives it.
const SHA: &str = "89e13a94981ddc68d5fc6c558b2f7aa697a9fcdddecf01c864564a84100c968b";

fn weights() -> Vec<u8> {
    "weights ".repeat(1000).into_bytes()
}

fn model(weights: &[u8]) -> Server {
    Server::start(&[
        ("README.md", "r", b"read me"),
        ("config.json", "c", b"{\"model_type\": \"llama\"}"),
        ("tokenizer.json", "t", b"{}"),
        ("model.safetensors", SHA, weights),
    ])
}

fn fetch(server: &Server, cache: &PathBuf, repo: &str) -> Result<(PathBuf, Vec<Event>), HubError> {
    let hub = Hub::new().with_endpoint(&server.endpoint).with_cache(cache);
    let mut events = Vec::new();
    let path = hub.fetch(&Repo::parse(repo)?, &mut |event| events.push(event.clone()))?;
    Ok((path, events))
}

#[test]
fn a_model_comes_once() {
    let (server, dir) = (model(&weights()), tempfile::tempdir().unwrap());
    let cache = dir.path().to_path_buf();
    let (folder, events) = fetch(&server, &cache, "owner/name").unwrap();
    assert!(folder.ends_with(COMMIT), "{}", folder.display());
    assert_eq!(std::fs::read(folder.join("model.safetensors")).unwrap(), weights());
    assert!(folder.join("config.json").exists() && !folder.join("README.md").exists());
    let last = Event::Progress { file: "model.safetensors".to_owned(), done: 8000, total: 8000 };
    assert!(events.contains(&last), "{events:?}");
    assert_eq!(events.last(), Some(&Event::Done { file: "model.safetensors".to_owned() }));
    // The second time only the list of files is asked for.
    server.asked.lock().unwrap().clear();
    assert_eq!(fetch(&server, &cache, "owner/name").unwrap().0, folder);
    let asked = server.asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 1, "{asked:?}");
}

#[test]
fn what_is_here_serves_without_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().to_path_buf();
    let index =
        r#"{"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}"#;
    let files: [(&str, &str, &[u8]); 5] = [
        ("config.json", "c", b"{}"),
        ("tokenizer.json", "t", b"{}"),
        ("model.safetensors.index.json", "i", index.as_bytes()),
        ("model-1-of-2.safetensors", "m1", b"one"),
        ("model-2-of-2.safetensors", "m2", b"two"),
    ];
    let fetch_from = |endpoint: &str| {
        let hub = Hub::new().with_endpoint(endpoint).with_cache(&cache);
        let mut events = Vec::new();
        let path = hub.fetch(&Repo::parse("owner/name").unwrap(), &mut |e| events.push(e.clone()));
        (path, events)
    };
    let server = Server::start(&files);
    let folder = fetch_from(&server.endpoint).0.unwrap();
    // Nobody listens there.
    let nowhere = "http://127.0.0.1:9";
    let (found, events) = fetch_from(nowhere);
    assert_eq!(found.unwrap(), folder);
    assert!(matches!(&events[..], [Event::Offline { .. }]), "{events:?}");
    // Of what is not all here nothing is taken.
    std::fs::remove_file(folder.join("model-2-of-2.safetensors")).unwrap();
    let message = fetch_from(nowhere).0.unwrap_err().to_string();
    assert!(message.contains("`owner/name` from http://127.0.0.1:9"), "{message}");
    // A server that answers has the last word.
    fetch_from(&server.endpoint).0.unwrap();
    let other = Server::start(&[("README.md", "r", b"read me")]);
    let message = fetch_from(&other.endpoint).0.unwrap_err().to_string();
    assert!(message.contains("has no config.json"), "{message}");
}

#[test]
fn a_broken_transfer_goes_on_where_it_ended() {
    let (server, dir) = (model(&weights()), tempfile::tempdir().unwrap());
    let cache = dir.path().to_path_buf();
    // Often enough that the library gives up: config and tokenizer come whole, the weights in pieces.
    server.breaks.lock().unwrap().extend([50, 150, 200, 250, 350, 9000, 9000]);
    let error = fetch(&server, &cache, "owner/name").unwrap_err();
    let message = error.to_string();
    assert!(message.contains("`model.safetensors` of `owner/name` from http://127"), "{message}");
    assert!(message.contains("\nhelp: ") && message.contains("is kept"), "{message}");
    server.asked.lock().unwrap().clear();
    let (folder, _) = fetch(&server, &cache, "owner/name").unwrap();
    assert_eq!(std::fs::read(folder.join("model.safetensors")).unwrap(), weights());
    let asked = server.asked.lock().unwrap().clone();
    assert!(asked.iter().any(|a| a.ends_with("model.safetensors 1000-")), "{asked:?}");
}

#[test]
fn a_program_that_was_killed_at_the_very_end_goes_on() {
    let (server, dir) = (model(&weights()), tempfile::tempdir().unwrap());
    let cache = dir.path().to_path_buf();
    let blobs = cache.join("models--owner--name/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    // All bytes are here but not named yet; or more than there should be.
    for left in [weights(), vec![b'x'; 9000]] {
        std::fs::write(blobs.join(format!("{SHA}.part")), left).unwrap();
        let (folder, _) = fetch(&server, &cache, "owner/name").unwrap();
        assert_eq!(std::fs::read(folder.join("model.safetensors")).unwrap(), weights());
        std::fs::remove_file(folder.join("model.safetensors")).unwrap();
        std::fs::remove_file(blobs.join(SHA)).unwrap();
    }
}

#[test]
fn a_server_cannot_name_files_elsewhere() {
    let server = Server::start(&[("m.gguf", "../../../m", b"GGUF..")]);
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().to_path_buf();
    let message = fetch(&server, &cache, "owner/name:m.gguf").unwrap_err().to_string();
    assert!(message.contains("is no plain word"), "{message}");
}

#[test]
fn what_is_not_what_was_promised_is_removed() {
    let (mut other, dir) = (weights(), tempfile::tempdir().unwrap());
    let cache = dir.path().to_path_buf();
    other[77] ^= 1;
    let server = model(&other);
    let message = fetch(&server, &cache, "owner/name").unwrap_err().to_string();
    assert!(message.contains(&format!("expected SHA-256 {SHA}, found ")), "{message}");
    // Nothing of it is left to be taken for the model.
    let server = model(&weights());
    let (folder, _) = fetch(&server, &cache, "owner/name").unwrap();
    assert_eq!(std::fs::read(folder.join("model.safetensors")).unwrap(), weights());
}

#[test]
fn one_file_can_be_asked_for() {
    let server = Server::start(&[("q/m.gguf", "g", b"GGUF..")]);
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().to_path_buf();
    let (path, _) = fetch(&server, &cache, "owner/name:q/m.gguf").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"GGUF..");
    let message = fetch(&server, &cache, "owner/name").unwrap_err().to_string();
    assert!(message.contains("has GGUF files\nhelp: name one of them"), "{message}");
}

#[test]
fn refusals_say_what_to_do() {
    let (server, dir) = (model(&weights()), tempfile::tempdir().unwrap());
    let cache = dir.path().to_path_buf();
    let refused = |repo: &str| fetch(&server, &cache, repo).unwrap_err().to_string();
    let message = refused("owner/other");
    assert!(
        message.contains("`owner/other`") && message.contains("says 404\nhelp: check"),
        "{message}"
    );
    let message = refused("owner/secret");
    assert!(message.contains("says 401") && message.contains("log in"), "{message}");
    let nobody = Hub::new().with_endpoint("http://127.0.0.1:9").with_cache(&cache);
    let message = nobody.fetch(&Repo::parse("a/b").unwrap(), &mut |_| {}).unwrap_err().to_string();
    assert!(message.contains("http://127.0.0.1:9") && message.contains("check the connection"));
}
