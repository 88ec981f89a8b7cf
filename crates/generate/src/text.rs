//! From ids to text that can be shown: whole characters, no stop strings.

use caravan_tokenizer::{DecodeStream, Encode};

use crate::error::GenerateError;
use crate::stop::StopScanner;

/// The text of ids that come one by one.
#[derive(Debug)]
pub struct TextStream<'a> {
    /// Gone once the text is finished.
    stream: Option<DecodeStream<'a>>,
    scanner: StopScanner,
    stopped: bool,
}

impl<'a> TextStream<'a> {
    /// A stream behind `prompt`, whose text is not given out; whether a piece begins with a space depends on what is before
    /// it. `stop` ends the text and is not part of it.
    ///
    /// # Errors
    /// An id that the tokenizer does not know; so do the other methods.
    pub fn new(
        tokenizer: &'a dyn Encode,
        prompt: &[u32],
        stop: &[String],
    ) -> Result<Self, GenerateError> {
        let mut stream = DecodeStream::new(tokenizer);
        for id in prompt {
            stream.push(*id)?;
        }
        Ok(Self { stream: Some(stream), scanner: StopScanner::new(stop), stopped: false })
    }

    /// The text that may be shown after one more id; empty while a character or what may be a stop string is not complete.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn push(&mut self, id: u32) -> Result<&str, GenerateError> {
        let Some(stream) = &mut self.stream else { return Ok("") };
        let Some(piece) = stream.push(id)? else { return Ok("") };
        let (shown, complete) = self.scanner.push(&piece);
        self.stopped = complete;
        Ok(shown)
    }

    /// Whether a stop string is complete: nothing more is to be pushed.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// What was held back, once nothing follows.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn finish(&mut self) -> Result<String, GenerateError> {
        let mut text = String::new();
        if self.stopped {
            return Ok(text);
        }
        if let Some(stream) = self.stream.take()
            && let Some(piece) = stream.finish()?
        {
            let (shown, complete) = self.scanner.push(&piece);
            text.push_str(shown);
            self.stopped = complete;
        }
        if !self.stopped {
            text.push_str(self.scanner.flush());
        }
        Ok(text)
    }

    /// All text that was shown.
    pub fn into_text(self) -> String {
        self.scanner.into_text()
    }
}
