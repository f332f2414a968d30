//! One file per command of the command line; those that talk to the cluster share a connection.

pub(crate) mod cluster;
pub(crate) mod contexts;
pub(crate) mod data_dir;
pub(crate) mod down;
pub(crate) mod explain;
pub(crate) mod image;
pub(crate) mod kubeconfig;
pub(crate) mod lock;
pub(crate) mod node;
pub(crate) mod run;
pub(crate) mod status;
pub(crate) mod token;
pub(crate) mod up;
