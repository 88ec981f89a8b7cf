//! The training program as a library.
//!
//! ```text
//! RunConfig -> Plan -> data (tokenizer, shards, loader) -> loop { step, record, evaluate, save } -> report
//! ```
//!
//! [`train`] starts a run in a folder, [`resume`] goes on with it bit for bit, [`open_run`] gives
//! configuration, model and tokenizer to everyone who reads a run. One update is [`step`], which
//! knows nothing of files; `examples/train_and_predict.rs` goes through all of it on one page.

mod awake;
mod check;
mod config;
mod console;
mod data;
mod engine_state;
mod error;
mod identity;
mod memory;
mod metrics;
mod observer;
mod plan;
mod rank_log;
mod ranks;
mod report;
mod run;
mod run_dir;
mod stages;
mod state;
mod step;
mod validation;
mod verify;

pub use caravan_parallel::{NotFinite, StepOutcome, StepSettings};
pub use check::layout;
pub use config::{
    DataSection, KEYS, Key, ModelSection, OptimSection, ParallelSection, RunConfig, RunSection,
    Stage,
};
pub use console::{Console, clock};
pub use data::{Data, build_config, describe_shards, loader, prepare, write_whole};
pub use engine_state::{load_parameters, restore_engine, save_engine};
pub use error::{Result, TrainError};
pub use memory::{Memory, parse_bytes, peak_rss_bytes, show_bytes};
pub use metrics::{Communication, Metrics, Row, draw_loss, read_rows};
pub use observer::{Event, Observer, Silent};
pub use plan::{Plan, group};
pub use rank_log::RankLog;
pub use ranks::Ranks;
pub use report::{Report, next_commands};
pub use run::{Outcome, resume, resume_on, train, train_on};
pub use run_dir::{OpenRun, RunDir, open_run};
pub use stages::StagePlan;
pub use state::{Position, new_optimizer};
pub use step::{for_inference, step, step_of, to_device};
pub use validation::{Sample, sample, samples, score, text_options};
