//! Compiled rules against a direct reading of the policies.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod cases;
mod history;
mod world;
