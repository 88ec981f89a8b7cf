use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use burn::tensor::Device;
use caravan_collective::Communicator;
use caravan_finetune::{
    AnswerScores, Conversation, Dialect, Ended, FinetuneError, Outcome, Session, Settings, instruct,
};
use caravan_generate::{ChatTemplate, Message, TEMPLATES};
use caravan_model::{Kernels, Llama, LlamaConfig, SpecialIds, WeightDtype, preset, save_hf};
use caravan_tokenizer::{Encode as _, Tokenizer, TrainConfig, train_bpe};

use crate::support::parameters;

fn tokenizer() -> Tokenizer {
    let text =
        "user: Say red. assistant: red blue green <|im_start|> <|im_end|> colours ".repeat(20);
    let config = TrainConfig { vocab_size: 300, ..TrainConfig::default() };
    let documents = [Ok::<_, std::io::Error>(text)].into_iter();
    let trained = train_bpe(&config, documents, &mut |_| {}).unwrap();
    let tokenizer = Tokenizer::from_bytes(trained.bytes().to_vec(), "t.model".as_ref());
    tokenizer.unwrap().beginning_with_bos()
}

fn template(name: &str) -> ChatTemplate {
    let source = TEMPLATES.iter().find(|(known, _)| *known == name).unwrap().1;
    ChatTemplate::new(source, "<s>", "</s>").unwrap()
}

fn turn(role: &str, content: &str) -> Message {
    Message { role: role.to_owned(), content: content.to_owned() }
}

const COLOURS: [&str; 3] = ["red", "blue", "green"];

fn conversations(n: usize) -> Vec<Conversation> {
    let one = |i: usize| {
        let colour = COLOURS[i % 3];
        let messages = vec![turn("user", &format!("Say {colour}.")), turn("assistant", colour)];
        Conversation { line: i + 1, messages }
    };
    (0..n).map(one).collect()
}

fn base(device: &Device) -> Llama {
    let vocab_size = tokenizer().vocab_size();
    let config = LlamaConfig { vocab_size, init_std: 0.1, ..preset("tiny").unwrap() };
    Llama::init(&config, 3, Kernels::Fused, device).unwrap()
}

fn run(
    train: &[Conversation],
    dev: &[Conversation],
    template: &ChatTemplate,
    changes: &[&str],
) -> Result<Outcome<AnswerScores>, FinetuneError> {
    let tokenizer = tokenizer();
    let mut settings = Settings { metric: "loss".to_owned(), ..Settings::default() };
    for change in ["batch=8", "epochs=6", "evals_per_epoch=1", "peak_lr=1e-2", "method=full"]
        .iter()
        .chain(changes)
    {
        settings.set(change).unwrap();
    }
    let model = base(&Device::flex().autodiff());
    let (dir, stop) = (tempfile::tempdir().unwrap(), AtomicBool::new(false));
    let session = Session { state: dir.path(), world: Communicator::alone(), stop: &stop };
    let ends = [tokenizer.eos_id().unwrap()];
    let dialect = Dialect { tokenizer: &tokenizer, template, ends: &ends };
    let sets = [train, dev];
    match instruct(model, dialect, sets, &settings, &session, &mut |_| Ok(()))? {
        Ended::Finished(outcome) => Ok(*outcome),
        other => panic!("{other:?}"),
    }
}

#[test]
fn answers_are_learned_by_both_methods_and_the_model_stops() {
    let all = conversations(96);
    let (train, dev) = all.split_at(84);
    let lora = ["method=lora", "epochs=12", "peak_lr=3e-2"];
    // Beside frozen random weights adapters cannot do everything: nine tenths of the loss go.
    for (changes, enough) in [(&["method=full"][..], 0.3), (&lora, 0.6)] {
        let method = changes[0];
        let outcome = run(train, dev, &template("plain"), changes).unwrap();
        assert!(outcome.scores.loss < enough, "{method}: {:?}", outcome.scores);
        if method == "method=lora" {
            assert!(parameters(&outcome.model).keys().any(|path| path.contains(".lora.")));
            continue;
        }
        let tokenizer = tokenizer();
        let mut ids = vec![tokenizer.bos_id().unwrap()];
        ids.extend(tokenizer.encode("User: Say blue.\nAssistant:").unwrap());
        let model = outcome.model.merged();
        let mut text = String::new();
        let options = caravan_generate::Options { max_tokens: 20, ..Default::default() };
        let mut push = |piece: &str| {
            text.push_str(piece);
            std::ops::ControlFlow::Continue(())
        };
        let end = caravan_generate::generate_from(&model, &tokenizer, ids, &options, &mut push);
        assert_eq!(text.trim(), "blue", "{method}: {:?}", end.unwrap());
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "the test runner says where Python is")]
fn python_computes_the_same_update() {
    let name = "python_computes_the_same_update";
    let Some(interpreter) = std::env::var_os("CARAVAN_PYTHON") else {
        eprintln!("NOT RUN: {name}: no Python (CARAVAN_PYTHON)");
        return;
    };
    // Of many lengths, so that rows hold several.
    let mut all = conversations(12);
    for (i, conversation) in all.iter_mut().enumerate() {
        let more = " please".repeat(i % 5);
        conversation.messages[0].content.push_str(&more);
    }
    // What the template writes, spelt out.
    let tokenizer = tokenizer();
    let ids_of = |conversation: &Conversation| {
        let [question, answer] = &conversation.messages[..] else { panic!("two turns") };
        let mut ids = vec![tokenizer.bos_id().unwrap()];
        ids.extend(tokenizer.encode(&format!("User: {}\nAssistant:", question.content)).unwrap());
        let n = ids.len();
        ids.extend(tokenizer.encode(&format!(" {}\n", answer.content)).unwrap());
        ids.push(tokenizer.eos_id().unwrap());
        let is_answer: Vec<bool> = (0..ids.len()).map(|i| i >= n).collect();
        serde_json::json!([ids, is_answer])
    };
    let written = serde_json::Value::from(all.iter().map(ids_of).collect::<Vec<_>>());
    let dir = tempfile::tempdir().unwrap();
    let special = SpecialIds::default();
    save_hf(&base(&Device::flex()), &dir.path().join("m"), WeightDtype::F32, &special).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/answers.py");
    let output = Command::new(interpreter)
        .arg("-B")
        .arg(script)
        .arg(dir.path().join("m"))
        .args([&*written.to_string(), "1e-2"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    if let Some(why) = text.strip_prefix("NOT RUN: ") {
        eprintln!("NOT RUN: {name}: {}", why.trim());
        return;
    }
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let expected: Vec<f64> = text.lines().map(|line| line.parse().unwrap()).collect();
    let found = |lr: &str, more: &str| {
        let changes = ["epochs=1", "batch=12", "warmup=0", lr, more];
        run(&all, &all, &template("plain"), &changes).unwrap().scores.loss
    };
    let before = found("peak_lr=1e-12", "micro_batch=0");
    assert!((before - expected[0]).abs() < 1e-5, "before: {before}, {}", expected[0]);
    for micro_batch in ["micro_batch=0", "micro_batch=5"] {
        let after = found("peak_lr=1e-2", micro_batch);
        assert!(expected[1] < expected[0] - 0.1);
        assert!((after - expected[1]).abs() < 1e-4, "{micro_batch}: {after}, {}", expected[1]);
    }
}

#[test]
fn only_answers_are_trained_on() {
    // What the user says is different in every conversation, and cannot be foreseen: it does not count.
    let all = conversations(48);
    let a = run(&all, &all, &template("plain"), &["epochs=1"]).unwrap();
    // Fifteen or so characters of a question, one to four tokens of an answer, the line end and EOS.
    assert!((48 * 3..=48 * 8).contains(&a.scores.n_tokens), "{}", a.scores.n_tokens);
    // A longer question changes nothing of how many tokens are foreseen.
    let mut longer = all.clone();
    for conversation in &mut longer {
        conversation.messages.insert(0, turn("system", "Say what you are asked to say."));
    }
    let b = run(&longer, &longer, &template("plain"), &["epochs=1"]).unwrap();
    assert_eq!(a.scores.n_tokens, b.scores.n_tokens);
    assert!(parameters(&a.model) != parameters(&b.model));
}

#[test]
fn every_answer_of_a_conversation_counts() {
    let one = conversations(1);
    let n = |conversation: &[Conversation]| {
        run(conversation, conversation, &template("chatml"), &["epochs=1"]).unwrap().scores.n_tokens
    };
    let mut two = one.clone();
    two[0].messages.extend([turn("user", "Say green."), turn("assistant", "green")]);
    let mut second = one.clone();
    second[0].messages[1].role = "user".to_owned();
    second[0].messages.extend(two[0].messages[2..].to_vec());
    // EOS stands behind the last alone.
    assert_eq!(n(&two), n(&one) + n(&second) - 1);
}

#[test]
fn what_cannot_be_learned_from_is_refused() {
    let all = conversations(8);
    let refused = |template: &ChatTemplate, changes: &[&str]| {
        run(&all, &all, template, changes).unwrap_err().to_string()
    };
    let plain = template("plain");
    let message = refused(&plain, &["metric=accuracy"]);
    assert!(message.contains("metric = accuracy: is not measured here"), "{message}");
    let message = refused(&plain, &["seq_len=6"]);
    assert!(message.contains("training: the conversation at line 1 has"), "{message}");
    let message = refused(&plain, &["seq_len=6", "truncate=head"]);
    assert!(message.contains("no answer is left in the first 6 tokens"), "{message}");
    assert!(run(&all, &all, &plain, &["seq_len=6", "truncate=tail", "epochs=1"]).is_ok());
    // One that says at the end what it did not say when it asked.
    let fickle = ChatTemplate::new(
        "{% if add_generation_prompt %}Q{% else %}A{% endif %}{{ messages[0].content }}",
        "",
        "",
    );
    let message = refused(&fickle.unwrap(), &[]);
    assert!(message.contains("where the answer begins cannot be told\nhelp: "), "{message}");
}
