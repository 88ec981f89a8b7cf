//! `caravan serve`: a model behind HTTP.

use std::net::{IpAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use caravan_serve::{Limits, Served, start};

use crate::output;
use crate::source::Source;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  caravan serve --model SmolLM2-135M-Instruct.Q4_1.gguf
  curl http://127.0.0.1:8080/v1/completions -d '{\"prompt\": \"Once upon a time\", \"max_tokens\": 20}'
  caravan serve --run runs/1 --host 0.0.0.0 --api-key-file key.txt")]
pub(crate) struct Args {
    #[command(flatten)]
    source: Source,
    /// Address to listen on; others than this machine reach it only if you say so.
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Port; 0 takes a free one.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// What clients call the model; by default the name of its folder or file.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// A file whose first line is the key that requests must bear.
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// How conversations are written for the model: `chatml`, `plain` or a file with a Jinja template; by default the model's own.
    #[arg(long, value_name = "NAME|FILE")]
    chat_template: Option<String>,
    /// Texts that are written at once.
    #[arg(long, default_value_t = 64, value_name = "N")]
    max_concurrent: usize,
    /// Texts that may wait beside them.
    #[arg(long, default_value_t = 256, value_name = "N")]
    queue: usize,
    /// Largest `max_tokens` that a client may ask for.
    #[arg(long, default_value_t = 4096, value_name = "N")]
    max_tokens_limit: usize,
    /// Bytes of a request's body.
    #[arg(long, default_value_t = 1 << 20, value_name = "BYTES")]
    max_body: usize,
    /// Seconds that running requests have to end when the server is told to stop.
    #[arg(long, default_value_t = 30, value_name = "SECS")]
    shutdown_secs: u64,
}

/// Between two looks at whether a signal has come.
const POLL: Duration = Duration::from_millis(50);

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let api_key = args.api_key_file.as_ref().map(|path| {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        match text.lines().next().map(str::trim).filter(|key| !key.is_empty()) {
            Some(key) => Ok(key.to_owned()),
            None => bail!("{} holds no key\nhelp: write the key on its first line", path.display()),
        }
    });
    let api_key = api_key.transpose()?;
    for (flag, value) in
        [("--max-concurrent", args.max_concurrent), ("--max-tokens-limit", args.max_tokens_limit)]
    {
        if value == 0 {
            bail!("{flag} 0\nhelp: allow at least one");
        }
    }
    let loaded = args.source.load()?;
    let template = match (&args.chat_template, &loaded.chat_template) {
        (None, None) => None,
        (asked, _) => Some(loaded.template(asked.as_deref())?),
    };
    loaded.tokenizer()?;
    let name = args.name.clone().unwrap_or_else(|| {
        let stem = if loaded.folder.is_file() {
            loaded.folder.file_stem()
        } else {
            loaded.folder.file_name()
        };
        stem.map_or("model".to_owned(), |stem| stem.to_string_lossy().into_owned())
    });
    let tokenizer = loaded.tokenizer.clone().context("the tokenizer was just there")?;
    let served = Served { name, model: loaded.model, tokenizer, template, ends: loaded.ends };
    let has_key = api_key.is_some();
    let limits = Limits {
        slots: args.max_concurrent,
        queue: args.queue,
        body_bytes: args.max_body,
        max_tokens: args.max_tokens_limit,
        shutdown: Duration::from_secs(args.shutdown_secs),
        api_key,
        ..Limits::default()
    };
    let signals = Arc::new(AtomicUsize::new(0));
    let handler = Arc::clone(&signals);
    ctrlc::set_handler(move || {
        handler.fetch_add(1, Ordering::Relaxed);
    })
    .context("listening for Ctrl-C")?;
    let running = start(served, &format!("{}:{}", args.host, args.port), limits)?;
    output::note(&format!("listening on http://{}", running.address()));
    if !has_key && !is_loopback(&args.host) {
        output::note(
            "warning: anyone who reaches this machine can use the model: there is no key\nhelp: give one with --api-key-file, or listen on 127.0.0.1",
        );
    }
    while signals.load(Ordering::Relaxed) == 0 {
        std::thread::sleep(POLL);
    }
    output::note("stopping: running requests may end; once more ends them");
    let all_ended = running.stop(&|| signals.load(Ordering::Relaxed) > 1);
    output::note(if all_ended { "stopped" } else { "stopped; some requests were cut off" });
    Ok(ExitCode::SUCCESS)
}

fn is_loopback(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => {
            (host, 0).to_socket_addrs().is_ok_and(|mut all| all.all(|a| a.ip().is_loopback()))
        }
    }
}
