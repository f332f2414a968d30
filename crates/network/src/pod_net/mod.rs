//! The pod network of one node: addresses, point-to-point interfaces, masquerading, host ports, and the host's own firewalls.

mod addresses;
mod attach;
mod compile;
mod error;
mod host_firewall;
mod host_setup;
mod purge;
mod reaper;
mod rules;

pub use addresses::{AddressPool, PoolError};
pub use attach::{Attached, PodNetwork};
pub use compile::{AttachPlan, HostPort, PodAttachment, compile, interface_name};
pub use error::Error;
pub use host_firewall::{FirewallReport, OpenPort, admit_pods, withdraw_admission};
pub use host_setup::Options;
pub use purge::purge;
pub use rules::TABLE;
