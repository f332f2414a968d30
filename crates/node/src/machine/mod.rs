//! The machine as the cluster sees it: its Node object, its Lease, its pressures, and what is done about them.

mod announce;
mod conntrack;
mod contact;
mod eviction;
mod extended;
mod facts;
mod image_collector;
mod lease;
mod local_storage;
mod reclaim;
mod register;

pub use contact::{Contact, stop_when_cut_off};
pub use eviction::{Candidate, Resource, Shortage, Thresholds, choose_victim, refused_under};
pub use facts::{Facts, Space};
pub use image_collector::{Collection, ImageHistory, ImageThresholds};
pub use lease::renew_lease;
pub use register::{Machine, MachineOptions};
