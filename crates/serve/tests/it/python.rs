use std::path::Path;
use std::process::Command;

use caravan_serve::Limits;

use crate::support::{server, server_with};

/// What a script printed, if there is a Python.
#[allow(clippy::disallowed_methods, reason = "the test runner says where Python is")]
fn run(test: &str, script: &str, arguments: &[&str]) -> Option<String> {
    let Some(interpreter) = std::env::var_os("CARAVAN_PYTHON") else {
        eprintln!("NOT RUN: {test}: no Python (CARAVAN_PYTHON)");
        return None;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(script);
    let output = Command::new(interpreter).arg("-B").arg(script).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    if let Some(why) = text.strip_prefix("NOT RUN: ") {
        eprintln!("NOT RUN: {test}: {}", why.trim());
        return None;
    }
    Some(text)
}

fn guarded() -> Limits {
    Limits { api_key: Some("secret".to_owned()), ..Limits::default() }
}

#[test]
fn python_openai_client() {
    let server = server(guarded());
    let url = format!("http://{}/v1", server.address());
    if let Some(text) = run("python_openai_client", "client.py", &[&url]) {
        assert!(text.ends_with("all good\n"), "{text}");
    }
}

#[test]
fn python_chat_page_in_chromium() {
    // A text that never ends by itself: there are tokens to watch.
    let server = server_with(guarded(), Vec::new());
    let url = format!("http://{}/", server.address());
    if let Some(text) = run("python_chat_page_in_chromium", "page.py", &[&url, "secret"]) {
        assert!(text.ends_with("all good\n"), "{text}");
    }
}
