use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use caravan_generate::{Options, Sampler, generate};
use caravan_serve::Limits;
use serde_json::json;

use crate::support::{connect, get, model, post, raw, request, server, tokenizer};

fn counter(at: std::net::SocketAddr, name: &str) -> u64 {
    let text = get(at, "/metrics").body;
    let line =
        text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")).map(str::to_owned));
    line.unwrap().parse().unwrap()
}

/// Waits until a counter has a value.
fn wait_for(at: std::net::SocketAddr, name: &str, value: u64) {
    let begun = Instant::now();
    while counter(at, name) != value {
        assert!(begun.elapsed() < Duration::from_secs(20), "{name} is {}", counter(at, name));
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn streams_at_once_get_what_they_would_get_alone() {
    let server = server(Limits { slots: 16, ..Limits::default() });
    let at = server.address();
    let prompt = |i: usize| "the quick brown fox jumps over the lazy dog"[i % 20..].to_owned();
    let clients: Vec<_> = (0..64)
        .map(|i| {
            std::thread::spawn(move || {
                let body = json!({ "prompt": prompt(i), "max_tokens": 30, "temperature": 0, "stream": true });
                let events = post(at, "/v1/completions", &body.to_string()).events();
                let text = |event: &String| {
                    let event: serde_json::Value = serde_json::from_str(event).unwrap();
                    event["choices"][0]["text"].as_str().unwrap().to_owned()
                };
                events[..events.len() - 1].iter().map(text).collect::<String>()
            })
        })
        .collect();
    let (model, tokenizer) = (model(), tokenizer());
    let options = Options { sampler: Sampler::greedy(), max_tokens: 30, ..Options::default() };
    for (i, client) in clients.into_iter().enumerate() {
        let alone = generate(&model, &*tokenizer, &prompt(i), &options, &mut |_| {
            std::ops::ControlFlow::Continue(())
        });
        assert_eq!(client.join().unwrap(), alone.unwrap().text, "stream {i}");
    }
}

#[test]
fn a_client_that_leaves_frees_its_slot() {
    let server = server(Limits { slots: 1, ..Limits::default() });
    let at = server.address();
    let endless = json!({ "prompt": "the", "max_tokens": 250, "stream": true }).to_string();
    let mut first = connect(at);
    first.write_all(request("POST", "/v1/completions", "", &endless).as_bytes()).unwrap();
    first.read_exact(&mut [0; 200]).unwrap();
    // One more waits, and leaves while it does.
    let mut second = connect(at);
    second.write_all(request("POST", "/v1/completions", "", &endless).as_bytes()).unwrap();
    drop(first);
    drop(second);
    let begun = Instant::now();
    let answer = post(at, "/v1/completions", r#"{"prompt": "the", "max_tokens": 2}"#);
    assert_eq!(answer.status, 200);
    assert!(begun.elapsed() < Duration::from_secs(5));
    wait_for(at, "caravan_running", 0);
}

#[test]
fn a_full_queue_says_so() {
    let server = server(Limits { slots: 1, queue: 1, ..Limits::default() });
    let at = server.address();
    let body = json!({ "prompt": "the", "max_tokens": 250, "n": 3 }).to_string();
    let answer = post(at, "/v1/completions", &body);
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (429, Some("queue_full")));
    assert!(answer.head.to_lowercase().contains("retry-after: 1"), "{}", answer.head);
    // Nothing of it was kept: a smaller one is taken.
    assert_eq!(
        post(at, "/v1/completions", r#"{"prompt": "the", "max_tokens": 2, "n": 2}"#).status,
        200
    );
}

#[test]
fn slow_clients_and_huge_bodies_do_not_stop_others() {
    let limits =
        Limits { read: Duration::from_millis(700), body_bytes: 10_000, ..Limits::default() };
    let server = server(limits);
    let at = server.address();
    // One that never finishes its headers, one that never sends its body, one that never reads.
    let mut headers = connect(at);
    headers.write_all(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-").unwrap();
    let mut body = connect(at);
    body.write_all(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{")
        .unwrap();
    let mut reader = connect(at);
    let stream = json!({ "prompt": "the", "max_tokens": 200, "stream": true }).to_string();
    reader.write_all(request("POST", "/v1/completions", "", &stream).as_bytes()).unwrap();
    // A length that is stated is refused before the body comes.
    let huge = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 99999999999\r\n\r\n";
    assert_eq!(raw(at, huge).status, 413);
    // So is one that is not stated, once it is too long.
    let mut chunked = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..20 {
        chunked.extend(b"400\r\n");
        chunked.extend([b' '; 0x400]);
        chunked.extend(b"\r\n");
    }
    assert_eq!(raw(at, &chunked).status, 413);
    for _ in 0..5 {
        assert_eq!(
            post(at, "/v1/completions", r#"{"prompt": "the", "max_tokens": 2}"#).status,
            200
        );
    }
    // The slow ones are sent away.
    let mut rest = String::new();
    body.read_to_string(&mut rest).unwrap();
    assert!(rest.starts_with("HTTP/1.1 408"), "{rest}");
    rest.clear();
    let _ = headers.read_to_string(&mut rest);
    assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 408"), "{rest}");
    wait_for(at, "caravan_running", 0);
}

#[test]
fn many_short_connections() {
    let server = server(Limits { connections: 8, ..Limits::default() });
    let at = server.address();
    let clients: Vec<_> = (0..4)
        .map(|_| std::thread::spawn(move || (0..100).all(|_| get(at, "/health").status == 200)))
        .collect();
    assert!(clients.into_iter().all(|client| client.join().unwrap()));
}

#[test]
fn stopping_lets_running_requests_end() {
    let server = server(Limits::default());
    let at = server.address();
    let client = std::thread::spawn(move || {
        post(at, "/v1/completions", r#"{"prompt": "the", "max_tokens": 150, "temperature": 0}"#)
    });
    wait_for(at, "caravan_running", 1);
    assert!(server.stop(&|| false), "all requests ended");
    let answer = client.join().unwrap();
    assert_eq!(
        (answer.status, answer.json()["usage"]["completion_tokens"].as_u64()),
        (200, Some(150))
    );
    assert!(std::net::TcpStream::connect(at).is_err(), "nobody listens any more");
}
