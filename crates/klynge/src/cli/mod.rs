//! The command line's shape, its output and its failures.

mod arguments;
mod failure;
mod network;
mod output;

pub(crate) use arguments::{
    AgentArguments, Arguments, Command, DEFAULT_DATA_DIR, DownArguments, EncryptionKind, ExplainArguments, Global,
    ImageCommand, NetworkArguments, NetworkKind, NodeCommand, RunArguments, ServerArguments, TokenCommand, UpArguments,
};
pub(crate) use failure::Failure;
pub(crate) use network::records;
pub(crate) use output::{Format, Output};
