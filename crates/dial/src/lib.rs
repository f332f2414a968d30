//! TCP connections to hosts by name: a static glibc must not call getaddrinfo, so the names are resolved here, by
//! /etc/hosts and the servers of /etc/resolv.conf.

mod connect;

pub use connect::{connect, resolve};
