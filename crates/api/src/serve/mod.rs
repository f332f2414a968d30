//! The HTTPS front: connections, requests, answers.

mod body;
mod discovery;
mod dispatch;
mod listener;
pub(crate) mod metrics;
pub(crate) mod openapi;
mod options;
mod path;
mod paths;
mod query;
mod resources;
pub(crate) mod respond;

pub(crate) use body::Answer;
pub(crate) use dispatch::Context;
pub(crate) use listener::{Limits, Peer, serve};
pub(crate) use path::named_by;
pub(crate) use query::Parameters;
pub(crate) use resources::create;
