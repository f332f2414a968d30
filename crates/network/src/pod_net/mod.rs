//! The pod network of one node: addresses, point-to-point interfaces, masquerading, host ports, the ways to other
//! nodes' pods, and the host's own firewalls.

mod addresses;
mod attach;
mod bandwidth;
mod compile;
mod encryption;
mod error;
mod host_firewall;
mod host_setup;
mod peer_claims;
mod peer_table;
mod peers;
mod peers_apply;
mod purge;
mod reaper;
mod rules;
mod vxlan;

pub use addresses::{AddressPool, PoolError};
pub use attach::{Attached, PodNetwork};
pub use bandwidth::Bandwidth;
pub use compile::{AttachPlan, HostPort, PodAttachment, compile, interface_name};
pub use encryption::{
    ENCRYPTION_PORT, ENCRYPTION_TABLE, EncryptionForm, INTERFACE as ENCRYPTION_INTERFACE, PrivateKey,
};
pub use error::Error;
pub use host_firewall::{Admission, FirewallReport, OpenPort, admit, admit_pods, withdraw_admission};
pub use host_setup::Options;
pub use peers::{Encapsulation, Peer, PeerProblem};
pub use peers_apply::PeersReport;
pub use purge::{attached_pods, purge};
pub use rules::TABLE;
pub(crate) use vxlan::TUNNEL_INTERFACE_PREFIX;
pub use vxlan::{TUNNEL_IDENTIFIER, TUNNEL_PORT, TUNNEL_TABLE};
