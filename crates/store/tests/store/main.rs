//! The store's tests from outside: one binary, because linking costs more than running.
#![expect(clippy::unwrap_used, reason = "tests")]

mod backup;
mod common;
mod contract;
mod crash;
mod faults;
mod kill;
mod model;
mod power;
