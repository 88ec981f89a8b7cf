//! Conversations in JSON lines, in the forms that instruction data comes in.
//!
//! | fields of a line | form |
//! |---|---|
//! | `messages: [{role, content}]` | OpenAI, TRL |
//! | `conversations: [{from, value}]` | ShareGPT; `human` and `gpt` are `user` and `assistant` |
//! | `instruction`, `input` (may be empty or absent), `output` | Alpaca |
//! | `prompt`, `completion` or `response` | a question and its answer |
//!
//! Other fields are left alone.

use std::path::Path;

use caravan_generate::Message;
use serde_json::{Map, Value};

use crate::error::{FinetuneError, Result, read_text};

/// Who is taught to speak.
pub(crate) const ASSISTANT: &str = "assistant";

/// The turns of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// Line of the file, counted from 1.
    pub line: usize,
    /// What was said, in order; at least one turn is the assistant's.
    pub messages: Vec<Message>,
}

const FORMS: &str = "give an object per line with `messages` ([{\"role\": .., \"content\": ..}]), `conversations`, `instruction` and `output`, or `prompt` and `completion`";

/// Reads a file of conversations, JSON lines.
///
/// # Errors
/// The file is unreadable or has no conversations, or a line is none of the forms above or has nothing to learn in it; with
/// its number.
pub fn read_conversations(path: &Path) -> Result<Vec<Conversation>> {
    let text = read_text(path)?;
    let text = text.as_str();
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let conversation = |(i, line): (usize, &str)| {
        let row = |problem: String| FinetuneError::Row {
            path: path.to_owned(),
            line: i + 1,
            problem,
            help: FORMS.to_owned(),
        };
        let object: Map<String, Value> =
            serde_json::from_str(line).map_err(|e| row(format!("no JSON object: {e}")))?;
        let messages = messages(&object).map_err(row)?;
        Ok(Conversation { line: i + 1, messages })
    };
    let all = lines.map(conversation).collect::<Result<Vec<_>>>()?;
    if all.is_empty() {
        let (path, problem) = (path.to_owned(), "it has no lines".to_owned());
        return Err(FinetuneError::File { path, problem, help: FORMS.to_owned() });
    }
    Ok(all)
}

fn messages(object: &Map<String, Value>) -> std::result::Result<Vec<Message>, String> {
    let text = |key: &str| object.get(key).and_then(Value::as_str);
    let messages = if let Some(turns) = object.get("messages") {
        turns_of(turns, "messages", ["role", "content"])?
    } else if let Some(turns) = object.get("conversations") {
        turns_of(turns, "conversations", ["from", "value"])?
    } else if let (Some(instruction), Some(output)) = (text("instruction"), text("output")) {
        let question = match text("input").filter(|input| !input.trim().is_empty()) {
            Some(input) => format!("{instruction}\n\n{input}"),
            None => instruction.to_owned(),
        };
        pair(&question, output)
    } else if let (Some(prompt), Some(answer)) =
        (text("prompt"), text("completion").or(text("response")))
    {
        pair(prompt, answer)
    } else {
        let keys: Vec<&str> = object.keys().map(String::as_str).collect();
        return Err(format!("the fields {} are no known form", keys.join(", ")));
    };
    let spoken = |m: &Message| m.role == ASSISTANT && !m.content.trim().is_empty();
    match messages.iter().any(spoken) {
        true => Ok(messages),
        false => Err("the assistant says nothing".to_owned()),
    }
}

fn pair(question: &str, answer: &str) -> Vec<Message> {
    let turn =
        |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
    vec![turn("user", question), turn(ASSISTANT, answer)]
}

fn turns_of(
    turns: &Value,
    field: &str,
    [role, content]: [&str; 2],
) -> std::result::Result<Vec<Message>, String> {
    let turns = turns.as_array().ok_or_else(|| format!("`{field}` is no list"))?;
    let turn = |(i, turn): (usize, &Value)| {
        let text = |key: &str| {
            let found = turn.get(key).and_then(Value::as_str);
            found.ok_or_else(|| format!("`{field}[{i}].{key}` is no text"))
        };
        let role = match text(role)? {
            "human" => "user",
            "gpt" => ASSISTANT,
            other => other,
        };
        Ok(Message { role: role.to_owned(), content: text(content)?.to_owned() })
    };
    turns.iter().enumerate().map(turn).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Conversation>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.jsonl");
        std::fs::write(&path, text).unwrap();
        read_conversations(&path)
    }

    #[test]
    fn four_forms_are_one() {
        let text = r#"{"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}
{"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}], "id": 3}

{"instruction": "Q", "input": "", "output": "A"}
{"prompt": "Q", "completion": "A"}
{"prompt": "Q", "response": "A"}"#;
        let all = read(text).unwrap();
        assert_eq!(all.iter().map(|c| c.line).collect::<Vec<_>>(), [1, 2, 4, 5, 6]);
        assert!(all.iter().all(|c| c.messages == pair("Q", "A")), "{all:?}");
        let with_input = read(r#"{"instruction": "Q", "input": "X", "output": "A"}"#).unwrap();
        assert_eq!(with_input[0].messages[0].content, "Q\n\nX");
    }

    #[test]
    fn what_is_none_of_them_is_named_by_its_line() {
        for (text, expected) in [
            ("{\"prompt\": \"Q\", \"completion\": \"A\"}\n[1]", "line 2: no JSON object"),
            (r#"{"question": "Q"}"#, "line 1: the fields question are no known form"),
            (r#"{"messages": "x"}"#, "line 1: `messages` is no list"),
            (r#"{"messages": [{"role": "user"}]}"#, "line 1: `messages[0].content` is no text"),
            (r#"{"prompt": "Q", "completion": " "}"#, "line 1: the assistant says nothing"),
            ("\n", "it has no lines"),
        ] {
            let message = read(text).unwrap_err().to_string();
            assert!(message.contains(expected) && message.contains("\nhelp: "), "{message}");
        }
    }
}
