//! `caravan chat`: a conversation in the terminal.

use std::io::{BufRead as _, IsTerminal as _};
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use caravan_generate::{ChatTemplate, Message, Options, Stop, generate_from};

use crate::source::{Loaded, Source};
use crate::{output, sampling};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  caravan chat --model SmolLM2-135M-Instruct.Q4_1.gguf
  caravan chat --model my-model --system 'Answer in one sentence.' --temperature 0.2

In the conversation: /system TEXT, /reset, /exit; Ctrl-C ends an answer.")]
pub(crate) struct Args {
    #[command(flatten)]
    source: Source,
    /// What the model is told before the conversation.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// How a conversation is written for the model: `chatml`, `plain` or a file with a Jinja template; by default the model's own.
    #[arg(long, value_name = "NAME|FILE")]
    chat_template: Option<String>,
    /// Tokens of an answer at most.
    #[arg(long, default_value_t = 512, value_name = "N")]
    max_tokens: usize,
    #[command(flatten)]
    sampling: sampling::Args,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    args.sampling.sampler(0).validate()?;
    let loaded = args.source.load()?;
    let template = loaded.template(args.chat_template.as_deref())?;
    let stopped = Arc::new(AtomicBool::new(false));
    let handler = Arc::clone(&stopped);
    ctrlc::set_handler(move || handler.store(true, Ordering::Relaxed))
        .context("listening for Ctrl-C")?;
    let mut talk = Talk { args, loaded: &loaded, template, turns: Vec::new(), stopped: &stopped };
    talk.reset(args.system.clone());
    let is_terminal = std::io::stdin().is_terminal();
    if is_terminal {
        output::note("/system TEXT, /reset, /exit; Ctrl-C ends an answer");
    }
    let mut lines = std::io::stdin().lock().lines();
    loop {
        if is_terminal {
            output::piece("> ")?;
        }
        let Some(line) = lines.next() else { break };
        let line = line.context("reading what you said")?;
        match line.trim() {
            "" => continue,
            "/exit" | "/quit" => break,
            "/reset" => talk.reset(args.system.clone()),
            command if command.starts_with("/system") => {
                let text = command["/system".len()..].trim();
                talk.reset((!text.is_empty()).then(|| text.to_owned()));
            }
            command if command.starts_with('/') => {
                output::note(&format!("no command `{command}`: /system TEXT, /reset, /exit"));
            }
            said => talk.answer(said)?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A conversation so far.
struct Talk<'a> {
    args: &'a Args,
    loaded: &'a Loaded,
    template: ChatTemplate,
    turns: Vec<Message>,
    stopped: &'a AtomicBool,
}

impl Talk<'_> {
    fn reset(&mut self, system: Option<String>) {
        self.turns.clear();
        if let Some(content) = system {
            self.turns.push(Message { role: "system".to_owned(), content });
        }
    }

    fn answer(&mut self, said: &str) -> Result<()> {
        self.turns.push(Message { role: "user".to_owned(), content: said.to_owned() });
        let tokenizer = self.loaded.tokenizer()?;
        let prompt = match self.prompt() {
            Ok(Some(prompt)) => prompt,
            refused => {
                self.turns.pop();
                if let Err(error) = refused {
                    output::error(&error);
                }
                return Ok(());
            }
        };
        let options = Options {
            max_tokens: self.args.max_tokens,
            sampler: self.args.sampling.sampler(self.turns.len() as u64),
            ends: self.loaded.ends.clone(),
            ..Options::default()
        };
        self.stopped.store(false, Ordering::Relaxed);
        let (mut failed, stopped) = (Ok(()), self.stopped);
        let generated =
            generate_from(&self.loaded.model, tokenizer, prompt, &options, &mut |text| {
                failed = output::piece(text);
                match failed.is_ok() && !stopped.load(Ordering::Relaxed) {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            })?;
        failed?;
        output::line("")?;
        match generated.stop {
            Stop::ContextFull => output::note("note: the context is full, the answer was cut off"),
            Stop::MaxTokens => {
                output::note("note: the answer reached --max-tokens and was cut off")
            }
            _ => {}
        }
        self.turns.push(Message { role: "assistant".to_owned(), content: generated.text });
        Ok(())
    }

    /// The ids of the conversation; the oldest turns are left out, a question with its answer, until there is room.
    fn prompt(&mut self) -> Result<Option<Vec<u32>>> {
        let limit = self.loaded.model.config().max_seq_len;
        let room = self.args.max_tokens.min(limit / 4).max(1);
        let first = usize::from(self.turns.first().is_some_and(|turn| turn.role == "system"));
        let mut forgotten = 0;
        loop {
            let text = self.template.render(&self.turns, true)?;
            let ids = self.loaded.template_ids(&text)?;
            if ids.len() + room <= limit {
                if forgotten > 0 {
                    output::note(&format!(
                        "note: the {forgotten} oldest turns no longer fit the context and were left out"
                    ));
                }
                return Ok(Some(ids));
            }
            if self.turns.len() < first + 3 {
                output::note(&format!(
                    "note: that has {} tokens, the model's context holds {limit}: say it shorter",
                    ids.len()
                ));
                return Ok(None);
            }
            self.turns.drain(first..first + 2);
            forgotten += 2;
        }
    }
}
