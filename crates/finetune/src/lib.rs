//! From a pre-trained LLaMA to one that classifies or follows instructions: all weights or low-rank adapters.
//!
//! ```text
//! labelled texts --read_examples--> classify: a target at each example's last token ----+
//! conversations --read_conversations--> instruct: targets where the assistant speaks ---+--> rows --tune--> weights, scores
//! ```
//!
//! Examples are packed into rows side by side: attention stays inside an example, so that nothing is padding but the ends of
//! rows. Only what is trained is saved, by module path, and adapters once more in PEFT's form. A run that is killed goes on
//! from its last measurement, on any layout of ranks, with the same bits.

mod classify;
mod confusion;
mod conversations;
mod encoding;
mod error;
mod examples;
mod groups;
mod instruct;
mod order;
mod packing;
mod peft;
mod saved;
mod scores;
mod settings;
mod steps;
mod tune;

pub use classify::{classify, measure, predict};
pub use confusion::draw_confusion;
pub use conversations::{Conversation, read_conversations};
pub use error::FinetuneError;
pub use examples::{Columns, Example, class_names, read_examples, read_texts};
pub use instruct::{AnswerScores, Dialect, instruct};
pub use peft::{load_peft, save_peft};
pub use saved::{Classifier, SavedClassifier};
pub use scores::{ClassScore, Scores};
pub use settings::Settings;
pub use tune::{Ended, Outcome, Progress, Session};
