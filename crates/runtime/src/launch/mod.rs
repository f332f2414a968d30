//! From a container's specification to the program that its first process carries out.

mod container;
mod exec;
mod failure;
mod pod;
mod program;
mod users;

pub(crate) use container::{Place, container, pid_flags};
pub(crate) use exec::exec;
pub(crate) use failure::start_error;
pub(crate) use pod::pod;
pub(crate) use program::{Program, StepName};
pub use users::ResolvedUser;
pub(crate) use users::resolve as resolve_user;
