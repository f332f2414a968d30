//! Keys and certificates: the cluster's own authority, what it issues, and their renewal while the server runs.

mod authority;
mod files;
mod kubeconfig;
mod tls;

pub(crate) use authority::BACKDATED;
pub use authority::{Error, Issued, Names, Pki, requested_name};
pub use kubeconfig::{Kubeconfig, merge, unmerge};
pub(crate) use tls::verify_chain;
pub use tls::{CallerVerifier, server_config};
