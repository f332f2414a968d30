//! Images, root file systems, namespaces, cgroups, exec, logs, and the shim that outlives the agent.

mod capabilities;
mod cgroup;
mod connection;
mod error;
mod images;
mod launch;
mod pod;
mod runtime;
mod seccomp;
mod shim;
mod spec;
mod state;
mod watch;
#[expect(dead_code, reason = "some of it is the shim's")]
#[path = "../shim/wire.rs"]
mod wire;

pub use cgroup::Stats;
pub use error::{Error, Result, StartFault};
pub use images::*;
pub use launch::ResolvedUser;
pub use pod::{Attached, Events, Exec, Pod, Stream};
pub use runtime::{Options, Runtime};
pub use spec::*;
