use caravan_serve::Limits;
use serde_json::{Value, json};

use crate::support::{CONTEXT, get, post, raw, request, server};

#[test]
fn health_models_metrics_and_the_page() {
    let server = server(Limits::default());
    let at = server.address();
    assert_eq!(get(at, "/health").json(), json!({ "status": "ok" }));
    assert_eq!(get(at, "/v1/models").json()["data"][0]["id"], "tiny");
    assert_eq!(get(at, "/v1/models/tiny").json()["object"], "model");
    let answer = get(at, "/v1/models/other");
    assert_eq!(
        (answer.status, answer.json()["error"]["code"].as_str()),
        (404, Some("model_not_found"))
    );
    let page = get(at, "/");
    assert!(page.head.contains("default-src 'none'"), "{}", page.head);
    // Nothing from elsewhere: the page works without a network.
    assert!(page.body.contains("</html>") && !page.body.contains("http"), "{}", page.body);
    post(at, "/v1/completions", r#"{"prompt": "the", "max_tokens": 3}"#);
    let text = get(at, "/metrics").body;
    for line in [
        "caravan_generated_tokens_total 3",
        "caravan_running 0",
        "route=\"/v1/completions\",status=\"200\"} 1",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[test]
fn completions_are_counted_and_repeatable() {
    let server = server(Limits::default());
    let at = server.address();
    let ask = |extra: &str| {
        let body =
            format!(r#"{{"model": "tiny", "prompt": "the quick", "max_tokens": 12{extra}}}"#);
        post(at, "/v1/completions", &body).json()
    };
    let greedy = ask(r#", "temperature": 0"#);
    let choice = &greedy["choices"][0];
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(greedy["usage"]["completion_tokens"], 12);
    assert_eq!(greedy["object"], "text_completion");
    let text = choice["text"].as_str().unwrap();
    assert_eq!(ask(r#", "temperature": 0"#)["choices"][0]["text"], text);
    assert_eq!(
        ask(r#", "seed": 3"#)["choices"][0]["text"],
        ask(r#", "seed": 3"#)["choices"][0]["text"]
    );
    let two = ask(r#", "seed": 3, "n": 2"#);
    assert_ne!(two["choices"][0]["text"], two["choices"][1]["text"]);
    assert_eq!(two["choices"][1]["index"], 1);
    // A stop string is not part of the text.
    let middle: String = text.chars().skip(3).take(2).collect();
    let body =
        json!({ "prompt": "the quick", "max_tokens": 12, "temperature": 0, "stop": [middle] });
    let stopped = post(at, "/v1/completions", &body.to_string()).json();
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    assert_eq!(stopped["choices"][0]["text"], text[..text.find(&middle).unwrap()]);
    // Several prompts, as texts and as ids.
    let body = json!({ "prompt": ["the", "dog"], "max_tokens": 2, "temperature": 0 });
    assert_eq!(
        post(at, "/v1/completions", &body.to_string()).json()["choices"].as_array().unwrap().len(),
        2
    );
    let body = json!({ "prompt": [1, 5, 6], "max_tokens": 2 });
    assert_eq!(post(at, "/v1/completions", &body.to_string()).json()["usage"]["prompt_tokens"], 3);
}

#[test]
fn a_stream_is_the_whole_in_pieces() {
    let server = server(Limits::default());
    let at = server.address();
    let ask = |path: &str, body: &Value| post(at, path, &body.to_string());
    for (path, input) in [
        ("/v1/completions", json!({ "prompt": "the lazy" })),
        (
            "/v1/chat/completions",
            json!({ "messages": [{ "role": "user", "content": "the lazy" }] }),
        ),
    ] {
        let mut body = json!({ "max_tokens": 20, "temperature": 0, "n": 2, "stream_options": { "include_usage": true } });
        body.as_object_mut().unwrap().extend(input.as_object().unwrap().clone());
        let whole = ask(path, &body).json();
        body["stream"] = json!(true);
        let answer = ask(path, &body);
        assert!(answer.head.contains("text/event-stream"), "{}", answer.head);
        let events = answer.events();
        assert_eq!(events.last().unwrap(), "[DONE]");
        let mut texts = [String::new(), String::new()];
        let mut reasons = Vec::new();
        let mut usage = Value::Null;
        for event in &events[..events.len() - 1] {
            let event: Value = serde_json::from_str(event).unwrap();
            assert_eq!(event["model"], "tiny");
            match event["choices"].as_array().unwrap().first() {
                Some(choice) => {
                    let text = choice["text"].as_str().or(choice["delta"]["content"].as_str());
                    texts[choice["index"].as_u64().unwrap() as usize] += text.unwrap_or("");
                    reasons.extend(choice["finish_reason"].as_str().map(str::to_owned));
                }
                None => usage = event["usage"].clone(),
            }
        }
        assert_eq!(reasons, ["length", "length"]);
        assert_eq!(usage, whole["usage"]);
        for (i, text) in texts.iter().enumerate() {
            let choice = &whole["choices"][i];
            let expected = choice["text"].as_str().or(choice["message"]["content"].as_str());
            assert_eq!(text, expected.unwrap(), "{path}");
        }
    }
}

#[test]
fn what_cannot_be_done_is_refused_in_one_form() {
    let server = server(Limits { body_bytes: 4000, max_tokens: 100, ..Limits::default() });
    let at = server.address();
    let ok = |extra: &str| format!(r#"{{"prompt": "the"{extra}}}"#);
    let long = "the ".repeat(CONTEXT);
    let cases = [
        (r#"{"prompt": "x""#.to_owned(), 400, "the body is no JSON"),
        ("[1]".to_owned(), 400, "must be a JSON object"),
        ("{}".to_owned(), 400, "`prompt` must be"),
        (r#"{"prompt": [[1], 2]}"#.to_owned(), 400, "`prompt` must be"),
        (r#"{"prompt": [99999]}"#.to_owned(), 400, "token id 99999 is not below"),
        (ok(r#", "model": "gpt-4""#), 404, "there is \"tiny\""),
        (ok(r#", "max_tokens": 101"#), 400, "`max_tokens` must be a whole number from 1 to 100"),
        (ok(r#", "max_tokens": -1"#), 400, "`max_tokens`"),
        (ok(r#", "temperature": 3"#), 400, "`temperature` must be a number from 0 to 2"),
        (ok(r#", "temperature": "hot""#), 400, "`temperature`"),
        (ok(r#", "stop": [""]"#), 400, "`stop`"),
        (ok(r#", "n": 0"#), 400, "`n`"),
        (ok(r#", "logprobs": 2"#), 400, "`logprobs` is not supported"),
        (ok(r#", "echo": true"#), 400, "`echo` is not supported"),
        (format!(r#"{{"prompt": "{long}", "max_tokens": 10}}"#), 400, "context holds 256 tokens"),
        (format!(r#"{{"prompt": "{}"}}"#, "x".repeat(5000)), 413, "more than 4000 bytes"),
    ];
    for (body, status, text) in cases {
        let answer = post(at, "/v1/completions", &body);
        assert!(answer.status == status && answer.message().contains(text), "{body}: {answer:?}");
    }
    for (body, text) in [
        (r#"{"messages": []}"#, "`messages` must be"),
        (r#"{"messages": [{"content": "x"}]}"#, "it has no role"),
        (
            r#"{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}"#,
            "a part that is no text",
        ),
        (
            r#"{"messages": [{"role": "user", "content": "x"}], "tools": [{}]}"#,
            "`tools` is not supported",
        ),
    ] {
        let answer = post(at, "/v1/chat/completions", body);
        assert!(answer.status == 400 && answer.message().contains(text), "{body}: {answer:?}");
    }
    // Spelt-out defaults ask for nothing.
    let answer = post(
        at,
        "/v1/completions",
        &ok(r#", "echo": false, "logit_bias": {}, "best_of": 1, "suffix": null, "max_tokens": 1"#),
    );
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(get(at, "/v2").status, 404);
    assert_eq!(get(at, "/v1/completions").status, 405);
    assert!(get(at, "/v2").message().contains("/v1/chat/completions"));
    assert_eq!(raw(at, b"nonsense\r\n\r\n").status, 400);
    assert_eq!(get(at, "/health").status, 200);
}

#[test]
fn a_key_guards_everything_but_health_and_the_page() {
    let server = server(Limits { api_key: Some("secret".to_owned()), ..Limits::default() });
    let at = server.address();
    let with = |header: &str| raw(at, request("GET", "/v1/models", header, "").as_bytes()).status;
    assert_eq!(with(""), 401);
    assert_eq!(with("Authorization: Bearer wrong\r\n"), 401);
    assert_eq!(with("Authorization: secret\r\n"), 401);
    assert_eq!(with("Authorization: Bearer secret\r\n"), 200);
    assert_eq!(
        post(at, "/v1/completions", r#"{"prompt": "the"}"#).json()["error"]["code"],
        "invalid_api_key"
    );
    assert_eq!(get(at, "/metrics").status, 401);
    assert_eq!((get(at, "/health").status, get(at, "/").status), (200, 200));
}
