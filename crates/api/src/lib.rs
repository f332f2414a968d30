//! The API server: serve, authn, authz, admission, write, read, watch, discovery, openapi.

pub mod auth;
pub mod pki;
