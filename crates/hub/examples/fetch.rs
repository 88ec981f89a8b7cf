//! Brings a model from a hub, here one of our own on this machine.

#[path = "../tests/it/server.rs"]
mod server;

use caravan_hub::{Event, Hub, Repo};

#[allow(clippy::print_stdout, reason = "an example shows what it got")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = server::Server::start(&[
        ("config.json", "a", b"{\"model_type\": \"llama\"}"),
        ("model.safetensors", "b", &[0; 4096]),
    ]);
    let cache = tempfile::tempdir()?;
    let hub = Hub::new().with_endpoint(&server.endpoint).with_cache(cache.path());
    let folder = hub.fetch(&Repo::parse("owner/name")?, &mut |event| {
        if let Event::Done { file } = event {
            println!("{file}");
        }
    })?;
    let n_requests = server.asked.lock().map_or(0, |asked| asked.len());
    let broken = server.breaks.lock().map_or(0, |breaks| breaks.len());
    println!("commit {}: {n_requests} requests, {broken} broken", server::COMMIT);
    assert!(folder.join("model.safetensors").exists());
    Ok(())
}
