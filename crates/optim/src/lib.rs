//! AdamW over named parameter groups, learning-rate schedules as pure functions of the step, and
//! global-norm clipping.
//!
//! ```text
//! gradients --block_sums--> squared norm --clip_scale--> grad_scale --+
//! step number --LrSchedule::lr--> lr ---------------------------------+--> AdamW::step_scaled
//! path, shape --ParamGroups::decay--> decay --------------------------+
//! ```
//!
//! Everything here is elementwise over the flat index of a parameter or a sum in a fixed order, so a
//! parameter may be cut into shards anywhere (for the norm: at multiples of [`BLOCK`]) and still gets
//! the same bits. State is kept by module path, never by a random identifier.
//!
//! ```
//! use caravan_optim::{LrSchedule, Schedule, ScheduleConfig, clip_scale, squared_norm};
//!
//! let lr = LrSchedule::new(ScheduleConfig {
//!     schedule: Schedule::Cosine,
//!     peak_lr: 1e-3,
//!     min_lr: 1e-4,
//!     warmup_steps: 10,
//!     steps: 100,
//!     ..ScheduleConfig::default()
//! })?;
//! assert_eq!(lr.lr(9), 1e-3);
//! let norm = squared_norm(&[3.0, 4.0]).sqrt();
//! assert!((clip_scale(norm, 1.0) - 0.2).abs() < 1e-6);
//! # Ok::<(), caravan_optim::OptimError>(())
//! ```

mod adamw;
mod error;
mod groups;
mod host;
mod norm;
mod schedule;

pub use adamw::{AdamW, AdamWConfig, ParamState, Placement};
pub use error::OptimError;
pub use groups::{ParamGroups, decays, matches};
pub use norm::{
    BLOCK, block_sums, clip_scale, first_not_finite, scale, squared_norm, sum_in_order,
    tensor_block_sums,
};
pub use schedule::{DecayShape, LrSchedule, Schedule, ScheduleConfig};
