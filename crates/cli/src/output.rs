//! Data goes to standard output, everything else to standard error.

use std::io::Write;

use anyhow::{Context, Result};

/// Prints `error: ...`; the message carries its own `help:` line, which stays last.
pub(crate) fn error(error: &anyhow::Error) {
    let _ = writeln!(std::io::stderr(), "error: {}", message(error));
}

/// The message with those causes that it does not tell by itself, before its `help:` line.
pub(crate) fn message(error: &anyhow::Error) -> String {
    let text = error.to_string();
    let (mut problem, help) = match text.split_once("\nhelp: ") {
        Some((problem, help)) => (problem.to_owned(), Some(help.to_owned())),
        None => (text, None),
    };
    let mut hint = help;
    for cause in error.chain().skip(1) {
        let text = cause.to_string();
        let (cause, help) =
            text.split_once("\nhelp: ").map_or((text.as_str(), None), |(c, h)| (c, Some(h)));
        if !problem.contains(cause) {
            problem = format!("{problem}: {cause}");
        }
        hint = hint.or_else(|| help.map(str::to_owned));
    }
    match hint {
        Some(hint) => format!("{problem}\nhelp: {hint}"),
        None => problem,
    }
}

/// A line for the person at the terminal.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A line of data.
pub(crate) fn line(text: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{text}").context("writing to standard output")
}

/// Data without a line end, shown at once.
pub(crate) fn piece(text: &str) -> Result<()> {
    let mut out = std::io::stdout();
    write!(out, "{text}").and_then(|()| out.flush()).context("writing to standard output")
}

/// Whether the error is only that nobody reads our output any more.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::message;

    #[test]
    fn a_cause_is_told_once_and_help_comes_last() {
        let cause = || std::io::Error::other("disk on fire");
        let own = anyhow::anyhow!("`x`: cannot write: disk on fire\nhelp: run");
        assert_eq!(message(&own), "`x`: cannot write: disk on fire\nhelp: run");
        let told =
            Err::<(), _>(cause()).context("writing `x`: disk on fire\nhelp: run").unwrap_err();
        assert_eq!(message(&told), "writing `x`: disk on fire\nhelp: run");
        let added = Err::<(), _>(cause()).context("writing `x`\nhelp: run").unwrap_err();
        assert_eq!(message(&added), "writing `x`: disk on fire\nhelp: run");
    }
}
