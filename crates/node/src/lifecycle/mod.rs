//! The pod lifecycle: a pure state machine from observations to actions, and the status that clients see.

mod admission;
mod back_off;
mod conditions;
mod fold;
mod model;
mod plan;
mod probing;
mod recover;
mod restart;
mod status;
mod stopping;
#[cfg(test)]
mod tests;

pub use admission::{Allocatable, Requests, Verdict, admit, qos_class};
pub use back_off::BackOff;
pub use model::{
    Action, Container, Event, Exit, Hook, HookStage, Image, Outcome, Phase, PodState, ProbeKind, ProbeState,
    RecoveredContainer, Report, Role, Running, Sandbox, Severity, Signal, Stage, StartFailure, Stopping, Terminal,
    Volumes,
};
pub use plan::{next_wake, step};
pub(crate) use restart::{as_container, spec_of};
pub use status::{NodeAddresses, status};
