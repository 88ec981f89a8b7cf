//! Methods that Python's strings and dictionaries have, and templates call.

use minijinja::value::{Kwargs, Rest, Value, from_args};
use minijinja::{Error, ErrorKind, State};

/// The methods of Python's strings, lists and dictionaries that templates call.
pub(crate) fn python_method(
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
        "rsplit" => rsplit(text, args),
        "splitlines" => Ok(Value::from_iter(text.lines().map(|line| Value::from(line.to_owned())))),
        "partition" | "rpartition" => one().map(|part| {
            let from_the_end = method == "rpartition";
            let cut = if from_the_end { text.rsplit_once(&*part) } else { text.split_once(&*part) };
            let parts = match cut {
                Some((before, after)) => [before, part.as_str(), after],
                None if from_the_end => ["", "", text],
                None => [text, "", ""],
            };
            Value::from_iter(parts.map(Value::from))
        }),
        "removeprefix" => {
            one().map(|start| Value::from(text.strip_prefix(&*start).unwrap_or(text)))
        }
        "removesuffix" => one().map(|end| Value::from(text.strip_suffix(&*end).unwrap_or(text))),
        "isdigit" => Ok(all_of(text, |c| c.is_ascii_digit())),
        "isalpha" => Ok(all_of(text, char::is_alphabetic)),
        "isalnum" => Ok(all_of(text, char::is_alphanumeric)),
        "isspace" => Ok(all_of(text, char::is_whitespace)),
        "islower" => Ok(is_cased(text, char::is_lowercase, char::is_uppercase)),
        "isupper" => Ok(is_cased(text, char::is_uppercase, char::is_lowercase)),
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

/// From the end: what is left over stays at the beginning.
fn rsplit(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (separator, most): (Option<String>, Option<i64>) = from_args(args)?;
    let most = most.and_then(|n| usize::try_from(n).ok());
    let (Some(separator), Some(most)) = (&separator, most) else { return split(text, args) };
    let mut parts: Vec<&str> = text.rsplitn(most.saturating_add(1), separator.as_str()).collect();
    parts.reverse();
    Ok(Value::from_iter(parts.into_iter().map(Value::from)))
}

/// Whether every character is so; of none, no.
fn all_of(text: &str, is_so: impl Fn(char) -> bool) -> Value {
    Value::from(!text.is_empty() && text.chars().all(is_so))
}

fn is_cased(text: &str, right: impl Fn(char) -> bool, wrong: impl Fn(char) -> bool) -> Value {
    Value::from(text.chars().any(right) && !text.chars().any(wrong))
}
