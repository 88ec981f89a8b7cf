//! Text to requests.

use caravan_tokenizer::Encode;

use super::Request;
use crate::error::EvalError;

/// Which tokens stand before a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edges {
    /// Before every context.
    pub(crate) always: Option<u32>,
    /// Where there would be none otherwise: something has to predict the first token.
    pub(crate) if_empty: Option<u32>,
}

impl Edges {
    /// BOS everywhere if `bos` says so; before an empty context BOS, or EOS for want of it, as the harness does.
    pub(crate) fn new(tokenizer: &dyn Encode, bos: bool) -> Self {
        let always = tokenizer.bos_id().filter(|_| bos);
        Self { always, if_empty: tokenizer.bos_id().or_else(|| tokenizer.eos_id()) }
    }
}

/// Encodes pairs of context and continuation.
///
/// Both are encoded as one text, since a tokenizer may join across the border or treat a text's beginning differently;
/// what comes after as many tokens as the context has alone is the continuation. White space at the context's end goes to
/// the continuation, where tokenizers put it.
pub(crate) fn encode_pairs(
    tokenizer: &dyn Encode,
    edges: Edges,
    pairs: &[(String, String)],
) -> Result<Vec<Request>, EvalError> {
    let contexts: Vec<&str> =
        pairs.iter().map(|(context, _)| context.trim_end_matches(is_python_space)).collect();
    let wholes: Vec<String> =
        pairs.iter().map(|(context, continuation)| format!("{context}{continuation}")).collect();
    let wholes: Vec<&str> = wholes.iter().map(String::as_str).collect();
    let (contexts, wholes) = (tokenizer.encode_batch(&contexts)?, tokenizer.encode_batch(&wholes)?);
    let request = |(context, whole): (Vec<u32>, Vec<u32>)| {
        let n = context.len().min(whole.len());
        let (context, continuation) = whole.split_at(n);
        let before = edges.always.or(edges.if_empty.filter(|_| context.is_empty()));
        let context = before.into_iter().chain(context.iter().copied()).collect();
        Request { context, continuation: continuation.to_vec() }
    };
    Ok(contexts.into_iter().zip(wholes).map(request).collect())
}

/// What Python's `str.rstrip` takes away: Unicode's white space and four separators of ASCII.
fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use caravan_tokenizer::ByteTokenizer;

    #[test]
    fn spaces_move_to_the_continuation() {
        let pairs = [("ab \n".to_owned(), "c".to_owned()), (String::new(), "x".to_owned())];
        let requests =
            encode_pairs(&ByteTokenizer, Edges::new(&ByteTokenizer, true), &pairs).unwrap();
        let bos = ByteTokenizer.bos_id().unwrap();
        assert_eq!(requests[0].context, [bos, 97, 98]);
        assert_eq!(requests[0].continuation, [32, 10, 99]);
        assert_eq!(
            (&requests[1].context[..], &requests[1].continuation[..]),
            (&[bos][..], &[120][..])
        );
        let without =
            encode_pairs(&ByteTokenizer, Edges::new(&ByteTokenizer, false), &pairs).unwrap();
        assert_eq!((&without[0].context[..], &without[1].context[..]), (&[97, 98][..], &[bos][..]));
    }
}
