//! What a row asks of the model, whatever file it came from.

/// One row, made ready.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Item {
    /// Where it stands in its file.
    pub(crate) place: String,
    /// Rows are shown as examples only to rows of the same group, such as the subject of an exam.
    pub(crate) group: Option<String>,
    /// Before the examples.
    pub(crate) preface: String,
    /// The question.
    pub(crate) ask: Ask,
}

/// A question, by what is asked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Ask {
    /// Which continuation is the likeliest after its context?
    Choose(Choose),
    /// How likely is the continuation?
    Continue {
        /// What is given.
        context: String,
        /// What is scored, with the space before it.
        continuation: String,
    },
    /// What does the model write after the prompt?
    Generate(Generate),
    /// How likely is the whole text?
    Roll {
        /// The text.
        text: String,
    },
}

/// Several pairs of a context and a continuation, one of them right.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Choose {
    /// Contexts mostly agree; in partial evaluation the continuations do.
    pub(crate) options: Vec<(String, String)>,
    /// What is called a choice: its length normalises.
    pub(crate) texts: Vec<String>,
    /// Index of the right one.
    pub(crate) gold: usize,
}

/// A prompt, and what would be right to write after it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Generate {
    /// What is given.
    pub(crate) prompt: String,
    /// Each of them is right; none where the question has no answer.
    pub(crate) answers: Vec<String>,
    /// What an example shows after the prompt, with the space before it.
    pub(crate) shown: String,
}

impl Choose {
    /// The same context for every choice, and `delimiter` before each.
    pub(crate) fn after(context: &str, delimiter: &str, texts: Vec<String>, gold: usize) -> Self {
        let option = |text: &String| (context.to_owned(), format!("{delimiter}{text}"));
        Self { options: texts.iter().map(option).collect(), texts, gold }
    }
}

impl Ask {
    /// The row as an example: the question with its right answer.
    pub(crate) fn worked(&self) -> String {
        match self {
            Self::Choose(Choose { options, gold, .. }) => {
                let (context, continuation) = &options[*gold];
                format!("{context}{continuation}")
            }
            Self::Continue { context, continuation } => format!("{context}{continuation}"),
            Self::Generate(Generate { prompt, shown, .. }) => format!("{prompt}{shown}"),
            Self::Roll { text } => text.clone(),
        }
    }
}
