//! Control groups of both versions behind one handle.

mod detect;
mod device_filter;
mod devices;
mod files;
mod limits;
mod manage;
mod stats;

pub(crate) use devices::{DeviceAccess, Rule};
pub(crate) use manage::{Cgroups, Entry};
pub use stats::Stats;
