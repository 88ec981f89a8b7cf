//! The training program as a library: configuration, plan, step, loop, metrics, run directories.
