//! From a pod's spec to what the runtime starts: security, resources, mounts, command line. Pure.

mod build;
mod launch;
mod resources;
mod security;

pub use build::{Surroundings, launch, termination_log};
pub use launch::{ImageConfig, Launch, LaunchError, Limits, Mount, MountPropagation, Processes, SandboxSpec, Seccomp};
pub use resources::{container_limits, memory_limits, oom_score_adjust, pod_limits};
pub use security::{Security, security};
