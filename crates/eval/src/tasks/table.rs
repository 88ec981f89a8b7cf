//! Every task that is known by name.

use std::borrow::Cow;

use super::form::{Connectors, Form, Labels};
use super::normalise::Language;
use super::{Task, TaskKind};

const PLAIN: &[&str] = &["acc"];
const NORMED: &[&str] = &["acc", "acc_norm", "acc_bytes"];

/// Every task, by name. Prompts and metrics are those of EleutherAI's lm-evaluation-harness 0.4.
pub static TASKS: &[Task] = &[
    choice("piqa", Form::Piqa, NORMED, "everyday physics, two choices (Bisk et al. 2019)"),
    choice(
        "arc_easy",
        Form::Arc,
        NORMED,
        "school science, mostly four choices (Clark et al. 2018)",
    ),
    choice("arc_challenge", Form::Arc, NORMED, "its questions that counting words does not answer"),
    choice("hellaswag", Form::HellaSwag, NORMED, "how a scene goes on (Zellers et al. 2019)"),
    choice("winogrande", Form::WinoGrande, PLAIN, "whom a pronoun means (Sakaguchi et al. 2020)"),
    choice(
        "openbookqa",
        Form::OpenBookQa,
        NORMED,
        "science facts put to use (Mihaylov et al. 2018)",
    ),
    choice("boolq", Form::BoolQ, PLAIN, "yes or no about a passage (Clark et al. 2019)"),
    choice(
        "copa",
        Form::Copa(connect("because", "therefore", " ")),
        PLAIN,
        "cause or effect (Roemmele et al. 2011)",
    ),
    xcopa("xcopa_et", "sest", "seetõttu"),
    xcopa("xcopa_ht", "poukisa", "donk sa"),
    xcopa("xcopa_id", "karena", "maka"),
    xcopa("xcopa_it", "perché", "quindi"),
    xcopa("xcopa_qu", "imataq", "chaymi"),
    xcopa("xcopa_sw", "kwa sababu", "kwa hiyo"),
    xcopa("xcopa_ta", "காரணமாக", "எனவே"),
    xcopa("xcopa_th", "เพราะ", "ดังนั้น"),
    xcopa("xcopa_tr", "çünkü", "bu yüzden"),
    xcopa("xcopa_vi", "bởi vì", "vì vậy"),
    xcopa("xcopa_zh", "因为", "所以"),
    choice(
        "mmlu",
        Form::Mmlu,
        PLAIN,
        "exams in 57 subjects, a letter is asked for (Hendrycks et al. 2021)",
    ),
    choice(
        "multiple_choice",
        Form::Choices,
        NORMED,
        "any file with query, choices and gold; the query is used as it is",
    ),
    scored(
        "lambada",
        TaskKind::Continuation,
        Form::Lambada,
        &["acc", "perplexity"],
        "the last word of a passage (Paperno et al. 2016)",
    ),
    scored(
        "continuation",
        TaskKind::Continuation,
        Form::Continuation,
        &["acc", "perplexity"],
        "any file with context and continuation",
    ),
    reading(
        "squad",
        SQUAD,
        Language::English,
        "answers out of a passage (Rajpurkar et al. 2016, 2018)",
    ),
    reading("xquad_ar", labels("سيا", "سؤال", "إجابة"), Language::Arabic, XQUAD),
    reading("xquad_de", labels("Kontext", "Frage", "Antwort"), Language::German, XQUAD),
    reading("xquad_el", labels("Συμφραζόμενα", "Ερώτηση", "Απάντηση"), Language::Other, XQUAD),
    reading("xquad_en", labels("Context", "Question", "Answer"), Language::English, XQUAD),
    reading("xquad_es", labels("Contexto", "Pregunta", "Respuesta"), Language::Spanish, XQUAD),
    reading("xquad_hi", labels("प्रसंग", "सवाल", "उत्तर"), Language::Other, XQUAD),
    reading("xquad_ro", labels("Context", "Întrebare", "Răspuns"), Language::Other, XQUAD),
    reading("xquad_ru", labels("Контекст", "Вопрос", "Ответ"), Language::Other, XQUAD),
    reading("xquad_th", labels("บริบท", "คำถาม", "คำตอบ"), Language::Other, XQUAD),
    reading("xquad_tr", labels("Bağlam", "Soru", "Cevap"), Language::Other, XQUAD),
    reading("xquad_vi", labels("Bối cảnh", "Câu hỏi", "Trả lời"), Language::Vietnamese, XQUAD),
    reading("xquad_zh", labels("语境", "问题", "回答"), Language::Chinese, XQUAD),
    writing(
        "gsm8k",
        Form::Gsm8k,
        &["exact_match_strict", "exact_match_flexible"],
        Cow::Borrowed(&[
            Cow::Borrowed("Question:"),
            Cow::Borrowed("</s>"),
            Cow::Borrowed("<|im_end|>"),
        ]),
        256,
        "word problems that end in a number (Cobbe et al. 2021)",
    ),
    writing(
        "generation",
        Form::Generation,
        &["exact_match"],
        LINE,
        256,
        "any file with prompt and answer; one line is written",
    ),
    scored(
        "perplexity",
        TaskKind::Rolling,
        Form::Text,
        &["word_perplexity", "byte_perplexity", "bits_per_byte", "perplexity"],
        "any file with text, of any length",
    ),
];

/// An answer is a line.
pub(super) const LINE: Cow<'static, [Cow<'static, str>]> = Cow::Borrowed(&[Cow::Borrowed("\n")]);

const XQUAD: &str = "answers out of a passage in another language (Artetxe et al. 2020)";

const SQUAD: Labels =
    Labels { title: Some("Title"), passage: "Background", question: "Question", answer: "Answer" };

const fn labels(passage: &'static str, question: &'static str, answer: &'static str) -> Labels {
    Labels { title: None, passage, question, answer }
}

const fn connect(cause: &'static str, effect: &'static str, space: &'static str) -> Connectors {
    Connectors { cause, effect, space }
}

const fn scored(
    name: &'static str,
    kind: TaskKind,
    form: Form,
    metrics: &'static [&'static str],
    about: &'static str,
) -> Task {
    Task {
        name: Cow::Borrowed(name),
        kind,
        about: Cow::Borrowed(about),
        metrics: Cow::Borrowed(metrics),
        form,
        stop: Cow::Borrowed(&[]),
        max_tokens: 0,
        language: Language::English,
    }
}

const fn choice(
    name: &'static str,
    form: Form,
    metrics: &'static [&'static str],
    about: &'static str,
) -> Task {
    scored(name, TaskKind::MultipleChoice, form, metrics, about)
}

const fn xcopa(name: &'static str, cause: &'static str, effect: &'static str) -> Task {
    let about = "cause or effect in another language (Ponti et al. 2020)";
    choice(name, Form::Copa(connect(cause, effect, "")), PLAIN, about)
}

const fn reading(
    name: &'static str,
    labels: Labels,
    language: Language,
    about: &'static str,
) -> Task {
    Task {
        name: Cow::Borrowed(name),
        kind: TaskKind::ExtractiveQa,
        about: Cow::Borrowed(about),
        metrics: Cow::Borrowed(&["exact_match", "f1"]),
        form: Form::Squad(labels),
        stop: LINE,
        max_tokens: 64,
        language,
    }
}

const fn writing(
    name: &'static str,
    form: Form,
    metrics: &'static [&'static str],
    stop: Cow<'static, [Cow<'static, str>]>,
    max_tokens: usize,
    about: &'static str,
) -> Task {
    Task {
        name: Cow::Borrowed(name),
        kind: TaskKind::Generation,
        about: Cow::Borrowed(about),
        metrics: Cow::Borrowed(metrics),
        form,
        stop,
        max_tokens,
        language: Language::English,
    }
}
