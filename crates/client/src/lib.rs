//! One [`ClusterClient`] for every room that reads or changes the cluster: in process or over HTTPS.

mod request;

pub use request::{
    ClusterClient, DeleteOptions, Deletion, EventKind, Object, Page, PatchKind, Query, Request, Target, Verb, WatchEvent,
    WatchStream, WriteOptions,
};
