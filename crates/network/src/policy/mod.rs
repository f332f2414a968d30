//! NetworkPolicy in nftables: what is known (state, model), what that means (selections, layout, compiler), and bringing the kernel there.

mod claims;
mod compiler;
mod difference;
mod error;
mod judge;
mod layout;
mod model;
mod numbers;
mod program;
mod ranges;
mod revoke;
mod rules;
mod selections;
mod state;
#[cfg(test)]
mod tests;
mod tracked;
mod worker;

pub use error::Error;
pub use program::{Change, Options, Programmer, Report, purge};
pub use rules::TABLE;
pub use state::{Labels, LocalPod, NamedPort, Peer, PodState, Policy, PolicyKey, Port, Rule};
pub use worker::{Handle, Policies};
