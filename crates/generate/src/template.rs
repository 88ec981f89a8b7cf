//! Chat templates: how the turns of a conversation become one text that a model was trained on.
//!
//! A template is a Jinja text in the dialect of Hugging Face's transformers: blocks are trimmed, loops know `break`,
//! `raise_exception` refuses, `strftime_now` tells the time, and strings have some of Python's methods.
//!
//! # Reference
//! `transformers/utils/chat_template_utils.py` (`_compile_jinja_template`).

use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, Value, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State, context};
use serde::{Deserialize, Serialize};

use crate::error::GenerateError;

/// A turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, or what else the template knows.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// Templates by name, for a model that comes without one.
pub const TEMPLATES: &[(&str, &str)] = &[
    (
        "chatml",
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    ),
    (
        "plain",
        "{% for message in messages %}{{ message['role'] | capitalize + ': ' + message['content'] + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}",
    ),
    // Turns as they are: for prompts that say all there is to say.
    ("raw", "{% for message in messages %}{{ message['content'] }}{% endfor %}"),
];

/// A compiled template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

const NAME: &str = "chat";

impl ChatTemplate {
    /// Compiles a template. `bos` and `eos` are the names of the model's tokens, which templates write into the text.
    ///
    /// # Errors
    /// [`GenerateError::Template`] with the line that is not understood.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, GenerateError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.expect("only white space is configured"));
        environment.set_unknown_method_callback(python_method);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", to_json);
        environment.add_template_owned(NAME, source.to_owned()).map_err(|e| template_error(&e))?;
        Ok(Self { environment, bos: bos.to_owned(), eos: eos.to_owned() })
    }

    /// The text of a conversation; with `add_generation_prompt` also the beginning of the assistant's next turn.
    ///
    /// # Errors
    /// [`GenerateError::Template`] if the template refuses the conversation or fails.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, GenerateError> {
        let template = self.environment.get_template(NAME).map_err(|e| template_error(&e))?;
        let values = context! {
            messages => messages.iter().map(turn).collect::<Vec<_>>(),
            add_generation_prompt => add_generation_prompt,
            bos_token => self.bos.clone(),
            eos_token => self.eos.clone(),
            tools => Value::from(()),
            documents => Value::from(()),
        };
        template.render(values).map_err(|e| template_error(&e))
    }
}

fn turn(message: &Message) -> Value {
    Value::from_pairs([("role", &message.role), ("content", &message.content)])
}

fn template_error(error: &Error) -> GenerateError {
    let line = error.line().map(|line| format!(" at line {line}")).unwrap_or_default();
    match error.detail() {
        Some(text) if error.kind() == ErrorKind::InvalidOperation && text.starts_with(REFUSED) => {
            GenerateError::Template {
                problem: format!("refuses this conversation: {}", &text[REFUSED.len()..]),
                help: "check the order of roles: most templates want user and assistant in turn, a system message only at the beginning",
            }
        }
        _ => GenerateError::Template {
            problem: format!("is not understood{line}: {error}"),
            help: "give another one with --chat-template NAME or FILE",
        },
    }
}

/// Marks what a template itself says.
const REFUSED: &str = "raise_exception: ";

fn raise_exception(message: &str) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, format!("{REFUSED}{message}")))
}

/// JSON as Python's `json.dumps` writes it, without escapes for HTML or for other scripts.
#[allow(clippy::needless_pass_by_value, reason = "how the library calls a filter")]
fn to_json(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent = options.get::<Option<usize>>("indent")?;
    // Only this form is written anyway.
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let mut out = String::new();
    write_json(value, indent, 0, &mut out)?;
    Ok(out)
}

fn write_json(
    value: &Value,
    indent: Option<usize>,
    depth: usize,
    out: &mut String,
) -> Result<(), Error> {
    let line = |depth: usize, out: &mut String| {
        if let Some(n) = indent {
            out.push('\n');
            out.push_str(&" ".repeat(n * depth));
        }
    };
    let is_map = value.kind() == ValueKind::Map;
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&value.to_string()),
        ValueKind::Map | ValueKind::Seq | ValueKind::Iterable => {
            let (open, close) = if is_map { ('{', '}') } else { ('[', ']') };
            out.push(open);
            let mut n = 0;
            for item in value.try_iter()? {
                if n > 0 {
                    out.push_str(if indent.is_some() { "," } else { ", " });
                }
                n += 1;
                line(depth + 1, out);
                if is_map {
                    out.push_str(&serde_json::Value::from(item.to_string()).to_string());
                    out.push_str(": ");
                    write_json(&value.get_item(&item)?, indent, depth + 1, out)?;
                } else {
                    write_json(&item, indent, depth + 1, out)?;
                }
            }
            if n > 0 {
                line(depth, out);
            }
            out.push(close);
        }
        _ => out.push_str(&serde_json::Value::from(value.to_string()).to_string()),
    }
    Ok(())
}

/// The time in UTC, by the directives that chat templates use.
fn strftime_now(format: &str) -> Result<String, Error> {
    let secs = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    strftime(format, secs)
}

fn strftime(format: &str, secs: u64) -> Result<String, Error> {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] =
        ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    let (days, rest) = (secs / 86_400, secs % 86_400);
    let (year, month, day) = civil(days);
    let mut out = String::new();
    let mut characters = format.chars();
    while let Some(c) = characters.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let month_name = MONTHS[month as usize - 1];
        let day_name = DAYS[(days % 7) as usize];
        match characters.next() {
            Some('Y') => out += &year.to_string(),
            Some('m') => out += &format!("{month:02}"),
            Some('d') => out += &format!("{day:02}"),
            Some('b') => out += &month_name[..3],
            Some('B') => out += month_name,
            Some('a') => out += &day_name[..3],
            Some('A') => out += day_name,
            Some('H') => out += &format!("{:02}", rest / 3600),
            Some('M') => out += &format!("{:02}", rest / 60 % 60),
            Some('S') => out += &format!("{:02}", rest % 60),
            Some('%') => out.push('%'),
            other => {
                let text = format!("strftime_now knows no directive %{}", other.unwrap_or(' '));
                return Err(Error::new(ErrorKind::InvalidOperation, text));
            }
        }
    }
    Ok(out)
}

/// Year, month and day of the `days`th day since 1970-01-01.
///
/// # Reference
/// Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// The methods of Python's strings, lists and dictionaries that templates call.
fn python_method(
    _: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let unknown = || Error::from(ErrorKind::UnknownMethod);
    if let Some(text) = value.as_str() {
        return string_method(text, method, args).unwrap_or_else(|| Err(unknown()));
    }
    let items = || -> Result<Vec<Value>, Error> {
        let pair = |key: Value| Ok(Value::from(vec![key.clone(), value.get_item(&key)?]));
        value.try_iter()?.map(pair).collect()
    };
    match method {
        "items" => items().map(Value::from),
        "keys" => Ok(Value::from(value.try_iter()?.collect::<Vec<_>>())),
        "values" => {
            let values: Result<Vec<Value>, Error> =
                value.try_iter()?.map(|key| value.get_item(&key)).collect();
            values.map(Value::from)
        }
        "get" => {
            let (key, default): (Value, Option<Value>) = from_args(args)?;
            let found = value.get_item(&key)?;
            Ok(if found.is_undefined() { default.unwrap_or(Value::from(())) } else { found })
        }
        _ => Err(unknown()),
    }
}

/// `None` for a method that strings do not have here.
fn string_method(text: &str, method: &str, args: &[Value]) -> Option<Result<Value, Error>> {
    let characters = || -> Result<Option<String>, Error> {
        let (set,): (Option<String>,) = from_args(args)?;
        Ok(set)
    };
    let strip = |start: bool, end: bool| -> Result<Value, Error> {
        let set = characters()?;
        let is_in = |c: char| set.as_ref().map_or(c.is_whitespace(), |set| set.contains(c));
        let text = if start { text.trim_start_matches(is_in) } else { text };
        Ok(Value::from(if end { text.trim_end_matches(is_in) } else { text }))
    };
    let one = || -> Result<String, Error> {
        let (one,): (String,) = from_args(args)?;
        Ok(one)
    };
    Some(match method {
        "strip" => strip(true, true),
        "lstrip" => strip(true, false),
        "rstrip" => strip(false, true),
        "upper" => Ok(Value::from(text.to_uppercase())),
        "lower" => Ok(Value::from(text.to_lowercase())),
        "capitalize" => Ok(Value::from(titled(text, false))),
        "title" => Ok(Value::from(titled(text, true))),
        "startswith" => one().map(|start| Value::from(text.starts_with(&start))),
        "endswith" => one().map(|end| Value::from(text.ends_with(&end))),
        "find" => one().map(|part| {
            let at = text.find(&part).map(|at| text[..at].chars().count() as i64);
            Value::from(at.unwrap_or(-1))
        }),
        "count" => one().map(|part| Value::from(text.matches(part.as_str()).count())),
        "replace" => from_args::<(String, String, Option<usize>)>(args)
            .map(|(from, to, n)| Value::from(text.replacen(&from, &to, n.unwrap_or(usize::MAX)))),
        "split" => split(text, args),
        "join" => {
            let joined = |list: Value| -> Result<Value, Error> {
                let parts: Vec<String> = list.try_iter()?.map(|part| part.to_string()).collect();
                Ok(Value::from(parts.join(text)))
            };
            from_args::<(Value,)>(args).and_then(|(list,)| joined(list))
        }
        _ => return None,
    })
}

/// The first letter of the text, or of every word, large and all others small.
fn titled(text: &str, every_word: bool) -> String {
    let mut begins = true;
    let mut out = String::new();
    for c in text.chars() {
        match begins {
            true => out.extend(c.to_uppercase()),
            false => out.extend(c.to_lowercase()),
        }
        begins = every_word && !c.is_alphabetic();
    }
    out
}

/// At most `n - 1` cuts at white space, which the last part keeps inside.
fn words(text: &str, n: usize) -> Vec<&str> {
    let (mut rest, mut parts) = (text.trim_start(), Vec::new());
    while !rest.is_empty() && parts.len() + 1 < n {
        let Some(end) = rest.find(char::is_whitespace) else { break };
        parts.push(&rest[..end]);
        rest = rest[end..].trim_start();
    }
    if !rest.is_empty() {
        parts.push(rest);
    }
    parts
}

fn split(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (rest, options): (Rest<Value>, Kwargs) = from_args(args)?;
    let separator = rest.first().and_then(|value| value.as_str().map(str::to_owned));
    let most = match rest.get(1) {
        Some(most) => Some(i64::try_from(most.clone())?),
        None => options.get::<Option<i64>>("maxsplit")?,
    };
    let most =
        most.and_then(|n| usize::try_from(n).ok()).map_or(usize::MAX, |n| n.saturating_add(1));
    let parts: Vec<&str> = match &separator {
        Some(separator) => text.splitn(most, separator.as_str()).collect(),
        None => words(text, most),
    };
    Ok(Value::from_iter(parts.into_iter().map(Value::from)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(role: &str, content: &str) -> Message {
        Message { role: role.to_owned(), content: content.to_owned() }
    }

    #[test]
    fn dates_by_hand() {
        assert_eq!(
            strftime("%d %b %Y, %A %H:%M:%S %%", 0).unwrap(),
            "01 Jan 1970, Thursday 00:00:00 %"
        );
        // 2024-02-29 12:34:56 UTC
        assert_eq!(
            strftime("%Y-%m-%d %B %a %H:%M", 1_709_210_096).unwrap(),
            "2024-02-29 February Thu 12:34"
        );
        assert!(strftime("%q", 0).is_err());
    }

    #[test]
    fn named_templates() {
        let turns = [say("user", "Hi"), say("assistant", "Hello"), say("user", "Bye")];
        for (name, expected) in [
            (
                "chatml",
                "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
            ),
            ("plain", "User: Hi\nAssistant: Hello\nUser: Bye\nAssistant:"),
        ] {
            let source = TEMPLATES.iter().find(|(known, _)| *known == name).unwrap().1;
            let template = ChatTemplate::new(source, "<s>", "</s>").unwrap();
            assert_eq!(template.render(&turns, true).unwrap(), expected);
        }
    }

    #[test]
    fn a_refusal_is_the_templates_own_text() {
        let source = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('user comes first') }}{% endif %}";
        let template = ChatTemplate::new(source, "", "").unwrap();
        let message = template.render(&[say("system", "x")], false).unwrap_err().to_string();
        assert!(message.contains("refuses this conversation: user comes first"), "{message}");
        let message = ChatTemplate::new("a\n{% for %}", "", "").unwrap_err().to_string();
        assert!(message.contains("line 2"), "{message}");
    }

    #[test]
    fn methods_of_python() {
        let render = |source: &str| {
            let template = ChatTemplate::new(source, "<s>", "</s>").unwrap();
            template.render(&[say("user", "  a-b-c  ")], true).unwrap()
        };
        assert_eq!(render("{{ messages[0]['content'].strip() }}"), "a-b-c");
        assert_eq!(render("{{ messages[0].content.strip().split('-')[1].upper() }}"), "B");
        assert_eq!(render("{{ messages[0].content.strip().split('-', 1)[-1] }}"), "b-c");
        assert_eq!(
            render("{% if messages[0].content.lstrip().startswith('a') %}yes{% endif %}"),
            "yes"
        );
        assert_eq!(render("{{ 'a,b'.replace(',', ';') }}{{ bos_token }}"), "a;b<s>");
        assert_eq!(
            render("{% for k, v in messages[0].items() %}{{ k }} {% endfor %}"),
            "role content "
        );
        assert_eq!(render("{{ messages[0].get('name', 'none') }}"), "none");
        // As Python 3 and transformers 5 give them.
        assert_eq!(render("{{ 'hello wORLD foo'.title() }}"), "Hello World Foo");
        assert_eq!(render("{{ 'hello wORLD foo'.capitalize() }}"), "Hello world foo");
        assert_eq!(render("{{ ' a b  c'.split(none, 1) | join('|') }}"), "a|b  c");
        assert_eq!(render("{{ ' a b  c '.split() | join('|') }}"), "a|b|c");
        assert_eq!(render("{{ 'aXbXc'.replace('X', '-', 1) }}"), "a-bXc");
        assert_eq!(render("{{ 'it\\'s <b> & é' | tojson }}"), "\"it's <b> & é\"");
        assert_eq!(
            render("{{ {'a': [1, true, none, 2.5], 'b': {}} | tojson }}"),
            "{\"a\": [1, true, null, 2.5], \"b\": {}}"
        );
        assert_eq!(
            render("{{ [1, {'a': 2}] | tojson(indent=2) }}"),
            "[\n  1,\n  {\n    \"a\": 2\n  }\n]"
        );
    }
}
