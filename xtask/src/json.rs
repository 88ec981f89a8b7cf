//! A small JSON reader: `cargo metadata` and `metrics.jsonl` are all that xtask reads, and serde
//! would double the time it takes to build.

use anyhow::{Context as _, Result, bail, ensure};

/// A JSON value. Objects keep the order of the file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Number(f64),
    String(String),
    Array(Vec<Value>),
    Object(Vec<(String, Value)>),
}

impl Value {
    /// The value of `key`; `None` in anything but an object that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        match self {
            Value::Object(fields) => fields.iter().find(|(name, _)| name == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The text of a string.
    pub(crate) fn text(&self) -> Option<&str> {
        if let Value::String(text) = self { Some(text) } else { None }
    }

    /// The items of an array; none for anything else.
    pub(crate) fn items(&self) -> &[Value] {
        if let Value::Array(items) = self { items } else { &[] }
    }
}

/// Reads one value that fills `text`.
///
/// # Errors
/// With the byte offset of the first thing that is not JSON.
pub(crate) fn parse(text: &str) -> Result<Value> {
    let mut reader = Reader { text, at: 0 };
    let value = reader.value(0)?;
    reader.skip_space();
    ensure!(reader.at == text.len(), "byte {}: text after the value", reader.at);
    Ok(value)
}

/// Deeper nesting is refused before it could exhaust the stack.
const MAX_DEPTH: usize = 100;

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn value(&mut self, depth: usize) -> Result<Value> {
        ensure!(depth < MAX_DEPTH, "byte {}: nested more than {MAX_DEPTH} deep", self.at);
        self.skip_space();
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => Ok(Value::String(self.string()?)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(_) => {
                for (word, value) in [
                    ("null", Value::Null),
                    ("true", Value::Bool(true)),
                    ("false", Value::Bool(false)),
                ] {
                    if self.text[self.at..].starts_with(word) {
                        self.at += word.len();
                        return Ok(value);
                    }
                }
                bail!("byte {}: not a value", self.at)
            }
            None => bail!("byte {}: the text ends where a value should be", self.at),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value> {
        let mut fields = Vec::new();
        self.expect(b'{')?;
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Value::Object(fields));
        }
        loop {
            self.skip_space();
            let key = self.string()?;
            self.skip_space();
            self.expect(b':')?;
            fields.push((key, self.value(depth + 1)?));
            if !self.goes_on(b'}')? {
                return Ok(Value::Object(fields));
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value> {
        let mut items = Vec::new();
        self.expect(b'[')?;
        self.skip_space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            if !self.goes_on(b']')? {
                return Ok(Value::Array(items));
            }
        }
    }

    /// After an item: true for a comma, false for `close`.
    fn goes_on(&mut self, close: u8) -> Result<bool> {
        self.skip_space();
        match self.peek() {
            Some(b',') => self.at += 1,
            Some(byte) if byte == close => {
                self.at += 1;
                return Ok(false);
            }
            _ => bail!("byte {}: expected `,` or `{}`", self.at, char::from(close)),
        }
        Ok(true)
    }

    fn string(&mut self) -> Result<String> {
        self.expect(b'"')?;
        let mut out = String::new();
        loop {
            let rest = &self.text[self.at..];
            let end = rest.find(['"', '\\']).context("a string without its end")?;
            out.push_str(&rest[..end]);
            self.at += end + 1;
            if rest.as_bytes()[end] == b'"' {
                return Ok(out);
            }
            out.push(self.escape()?);
        }
    }

    fn escape(&mut self) -> Result<char> {
        let byte = self.peek().context("a string that ends in a backslash")?;
        self.at += 1;
        Ok(match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let high = self.hex4()?;
                let code = if (0xd800..0xdc00).contains(&high) {
                    self.expect(b'\\')?;
                    self.expect(b'u')?;
                    let low = self.hex4()?;
                    ensure!((0xdc00..0xe000).contains(&low), "byte {}: half a pair", self.at);
                    0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)
                } else {
                    high
                };
                char::from_u32(code).with_context(|| format!("byte {}: half a pair", self.at))?
            }
            _ => bail!("byte {}: no such escape", self.at - 1),
        })
    }

    fn hex4(&mut self) -> Result<u32> {
        let digits = self.text.get(self.at..self.at + 4).context("a short \\u escape")?;
        let code = u32::from_str_radix(digits, 16)
            .with_context(|| format!("byte {}: not four hexadecimal digits", self.at))?;
        self.at += 4;
        Ok(code)
    }

    fn number(&mut self) -> Result<Value> {
        let rest = &self.text[self.at..];
        let is_part = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E');
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let number =
            rest[..end].parse().with_context(|| format!("byte {}: not a number", self.at))?;
        self.at += end;
        Ok(Value::Number(number))
    }

    fn expect(&mut self, byte: u8) -> Result<()> {
        ensure!(self.peek() == Some(byte), "byte {}: expected `{}`", self.at, char::from(byte));
        self.at += 1;
        Ok(())
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_kind_of_value() {
        let value = parse(
            r#" {"a": [1, -2.5e3, true, false, null], "b": {"c": "x\n\u00e9\ud83d\ude00\"/"}, "d": [], "e": {}} "#,
        )
        .unwrap();
        let numbers: Vec<&Value> = value.get("a").unwrap().items().iter().collect();
        assert_eq!(
            numbers,
            [
                &Value::Number(1.0),
                &Value::Number(-2500.0),
                &Value::Bool(true),
                &Value::Bool(false),
                &Value::Null
            ]
        );
        assert_eq!(value.get("b").unwrap().get("c").unwrap().text(), Some("x\né😀\"/"));
        assert_eq!(value.get("d").unwrap().items(), []);
        assert_eq!(value.get("e"), Some(&Value::Object(Vec::new())));
        assert_eq!(value.get("f"), None);
    }

    #[test]
    fn refuses_what_is_not_json() {
        for text in [
            "",
            "{",
            "[1,",
            "[1 2]",
            "{\"a\" 1}",
            "\"a",
            "\"\\x\"",
            "\"\\ud800\"",
            "nul",
            "1 2",
            "1.2.3",
            "{1: 2}",
        ] {
            assert!(parse(text).is_err(), "{text:?} was read");
        }
        assert!(parse(&"[".repeat(100_000)).is_err());
    }
}
