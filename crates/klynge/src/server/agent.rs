//! The node agent of this process: containers, network and the kubelet's role.

use super::addresses::Ranges;
use crate::cli::{Failure, Global};
use api::{NoNodes, NodeConnector, Server};
use std::net::IpAddr;
use std::sync::Arc;

pub(super) struct Prepared {
    name: String,
}

impl Prepared {
    pub(super) fn new(name: &str) -> Self {
        Prepared { name: name.to_owned() }
    }
    pub(super) fn connector(&self) -> Arc<dyn NodeConnector> {
        Arc::new(NoNodes)
    }
}

pub(super) struct Agent;

impl Agent {
    pub(super) async fn start(prepared: Prepared, _: &Global, _: &Server, _: &Ranges, _: IpAddr) -> Result<Self, Failure> {
        Err(Failure::Failed(format!("no agent for {}", prepared.name)))
    }
    pub(super) async fn stop(self) {}
}
