//! Work queues that run controllers and scheduler and carry their actions out.
//!
//! One task owns the view, the queues and the scheduler's snapshot; mirrors and executors only send it messages.

mod convert;
mod core;
mod execute;
mod mirror;
mod options;
mod queue;
mod recorder;
mod runner;
mod scheduling;

pub use options::{Clock, ControlLoop, Handle, Options, Signer};
