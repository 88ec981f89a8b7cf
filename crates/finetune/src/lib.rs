//! From a pre-trained LLaMA to one that classifies: a new head, all weights or low-rank adapters.
//!
//! ```text
//! file --read_examples--> Example { text, label } --pack--> MicroBatch: a target at each example's last token
//!   --Engine::step--> weights --measure--> Scores { accuracy, macro F1, confusion } --best so far--> OUT/
//! ```
//!
//! Examples are packed into rows side by side: attention stays inside an example, so that nothing is padding but the ends of
//! rows. Only what is trained is saved, by module path, and adapters once more in PEFT's form.

mod classify;
mod confusion;
mod encoding;
mod error;
mod examples;
mod packing;
mod peft;
mod saved;
mod scores;
mod settings;

pub use classify::{Outcome, Progress, classify, measure, predict};
pub use confusion::draw_confusion;
pub use error::FinetuneError;
pub use examples::{Columns, Example, class_names, read_examples, read_texts};
pub use peft::{load_peft, save_peft};
pub use saved::{Classifier, SavedClassifier};
pub use scores::{ClassScore, Scores};
pub use settings::Settings;
