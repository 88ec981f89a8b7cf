//! `caravan download`, and models that are named `hf:owner/name`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use caravan_hub::{Event, Hub, Repo};
use caravan_train::{Console, Observer as _};

use crate::output;

/// What stands before the name of a repository where a path is expected.
const PREFIX: &str = "hf:";

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  caravan download HuggingFaceTB/SmolLM2-135M
  caravan download bartowski/SmolLM2-135M-Instruct-GGUF:SmolLM2-135M-Instruct-Q8_0.gguf
  caravan download meta-llama/Llama-3.2-1B@main --endpoint http://127.0.0.1:8000

Every command that takes --model also takes hf:owner/name and downloads what is not there yet. Files lie in the hub's own
cache (HF_HOME); HF_ENDPOINT names another server; HF_TOKEN or a login of huggingface-cli opens what is not open to all.")]
pub(crate) struct Args {
    /// owner/name, owner/name@revision, or owner/name:file.gguf.
    #[arg(value_name = "REPO")]
    repo: String,
    /// Another server than huggingface.co.
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Another folder for the files than the hub's own cache.
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let name = args.repo.strip_prefix(PREFIX).unwrap_or(&args.repo);
    let mut hub = hub();
    if let Some(endpoint) = &args.endpoint {
        hub = hub.with_endpoint(endpoint);
    }
    if let Some(cache) = &args.cache {
        hub = hub.with_cache(cache);
    }
    let path = fetch(&hub, name)?;
    output::line(&path.display().to_string())?;
    Ok(ExitCode::SUCCESS)
}

/// A path as it is, or that of the model which `hf:...` names.
///
/// # Errors
/// The model cannot be downloaded.
pub(crate) fn resolve(path: &Path) -> Result<PathBuf> {
    match path.to_str().and_then(|text| text.strip_prefix(PREFIX)) {
        Some(name) => fetch(&hub(), name),
        None => Ok(path.to_owned()),
    }
}

/// The hub that the environment names, with the variables that its other programs know.
#[allow(clippy::disallowed_methods, reason = "the program's user speaks here, not a library")]
fn hub() -> Hub {
    let hub = Hub::new();
    let hub = match std::env::var("HF_ENDPOINT") {
        Ok(endpoint) if !endpoint.is_empty() => hub.with_endpoint(endpoint),
        _ => hub,
    };
    let hub = match std::env::var_os("HF_HOME") {
        Some(home) if !home.is_empty() => hub.with_cache(Path::new(&home).join("hub")),
        _ => hub,
    };
    match std::env::var("HF_TOKEN") {
        Ok(token) if !token.is_empty() => hub.with_token(token),
        _ => hub,
    }
}

fn fetch(hub: &Hub, name: &str) -> Result<PathBuf> {
    let repo = Repo::parse(name)?;
    let mut console = Console::new();
    let path = hub.fetch(&repo, &mut |event| match event {
        Event::Progress { file, done, total } => {
            console.event(&caravan_train::Event::Progress {
                what: file,
                done: *done,
                total: Some(*total),
            });
        }
        Event::Done { file } => {
            console.event(&caravan_train::Event::Note(&format!("{file}: here")));
        }
        Event::Offline { problem } => {
            let note = format!("{name}: the server does not answer ({problem}); what was downloaded earlier is used");
            console.event(&caravan_train::Event::Note(&note));
        }
    });
    console.close();
    Ok(path?)
}
