//! Chat templates: how the turns of a conversation become one text that a model was trained on.
//!
//! A template is a Jinja text in the dialect of Hugging Face's transformers: blocks are trimmed, loops know `break`,
//! `raise_exception` refuses, `strftime_now` tells the time, and strings have some of Python's methods.
//!
//! # Reference
//! `transformers/utils/chat_template_utils.py` (`_compile_jinja_template`).

use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, context};
use serde::{Deserialize, Serialize};

use crate::error::GenerateError;
use crate::python::python_method;

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
        let source = without_generation(source);
        environment.add_template_owned(NAME, source).map_err(|e| template_error(&e))?;
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

/// A template whose `{% generation %}` blocks, which mark the assistant's words for training, are blocks that always hold.
fn without_generation(source: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(source.len()), source);
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        let Some(end) = tag.find("%}") else { break };
        out.push_str(before);
        let (tag, after) = tag.split_at(end + 2);
        let word = tag[2..end].trim_matches(['-', '+']).trim();
        let stands_for = match word {
            "generation" => Some("if true"),
            "endgeneration" => Some("endif"),
            _ => None,
        };
        match stands_for {
            Some(other) => out.push_str(&tag.replacen(word, other, 1)),
            None => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
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
        let generation = "{% for m in messages %}[{%- generation %} {{ m.role }} {% endgeneration -%} ]{% endfor %}";
        assert_eq!(render(generation), "[ user ]");
        // As Python 3 and transformers 5 give them.
        for (source, expected) in [
            ("'a-b-c'.rsplit('-', 1) | join('|')", "a-b|c"),
            ("'a-b-c'.rsplit('-') | join('|')", "a|b|c"),
            ("'a\\nb\\n'.splitlines() | join('|')", "a|b"),
            ("'k: v: w'.partition(': ') | join('|')", "k|: |v: w"),
            ("'k: v: w'.rpartition(': ') | join('|')", "k: v|: |w"),
            ("'kv'.rpartition(':') | join('|')", "||kv"),
            ("'prefix'.removeprefix('pre')", "fix"),
            ("'prefix'.removesuffix('pre')", "prefix"),
            ("'12'.isdigit()", "True"),
            ("''.isdigit()", "False"),
            ("'a1'.isalpha()", "False"),
            ("'aB'.islower()", "False"),
            ("'a1'.islower()", "True"),
            ("'A1'.isupper()", "True"),
        ] {
            assert_eq!(render(&format!("{{{{ {source} }}}}")), expected, "{source}");
        }
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
