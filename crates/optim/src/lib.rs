//! AdamW over named parameter groups, learning-rate schedules as pure functions, global-norm clipping.
