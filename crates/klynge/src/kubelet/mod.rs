//! The kubelet's port: the node's endpoints over TLS for whoever the cluster's authorisation lets in (metrics collectors, other tools).
//!
//! The API itself takes the connection inside the process or the agent's tunnel. Source: KEP-2862 (fine-grained kubelet
//! authorisation) and upstream's reference of kubelet authentication and authorisation (webhook mode, no anonymous callers).

mod certificate;
mod gate;
mod port;

pub(crate) use port::{KubeletPort, Serving, Settings};
