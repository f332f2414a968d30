//! The agent: follows the pods of its node, drives each one's lifecycle, and writes what it sees.

mod actions;
mod api;
mod backend;
mod checkpoint;
mod dispatcher;
mod events;
mod grpc_probe;
mod log_rotation;
mod mirror;
mod probes;
mod pull;
mod pull_records;
mod references;
mod seams;
mod serving;
mod shared;
mod status_writer;
mod tasks;
mod tokens;
mod volume_manager;
mod worker;

pub use api::{Api, target, to_value};
pub use backend::NodeBackend;
pub use dispatcher::{Dispatcher, PodRegistry, PodView, Resync};
pub use events::Recorder;
pub use mirror::{Change, follow};
pub use pull_records::{PullRecords, PullSecret};
pub use references::References;
pub use seams::{
    Connected, Containers, ImageFailure, ImageFound, ImageOnNode, ImageWish, PodNetwork, RecoveredPod, RegistryLogin,
    RuntimeEvent, RuntimeExit, Usage,
};
pub use serving::{ServiceName, Serving};
pub use shared::{Paths, ServiceLinks, Shared};
pub use tasks::Tasks;
pub use tokens::Tokens;
