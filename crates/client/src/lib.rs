//! One [`ClusterClient`] for every room that reads or changes the cluster: in process or over HTTPS.

mod any_certificate;
mod clock;
mod heartbeat;
mod https;
mod kubeconfig;
mod path;
mod request;
mod tls;
mod tunnel;

pub use any_certificate::connect_to_anyone;
pub use clock::CLOCK_DIFFERS;
pub use heartbeat::{
    BEAT_PERIOD, BEAT_PERIOD_MAX, Frame, FrameKind, HEARTBEAT_PATH, HEARTBEAT_PROTOCOL, beat as serve_heartbeat,
};
pub use https::{Https, NODE_REMOVED};
pub use kubeconfig::Endpoint;
pub use path::path;
pub use request::{
    ClusterClient, DeleteOptions, Deletion, EventKind, Object, Page, PatchKind, Query, Request, Target, Verb,
    WatchEvent, WatchStream, WriteOptions,
};
pub use tls::{Pin, key_hash};
pub use tunnel::{TUNNEL_PATH, TUNNEL_PROTOCOL, serve_tunnel};
