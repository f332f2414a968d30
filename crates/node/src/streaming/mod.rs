//! The kubelet-compatible HTTP endpoints: logs, exec, attach, port-forward over SPDY and WebSocket, health, pods, statistics.

mod backend;
mod log_reader;
mod port_channels;
mod port_forward;
mod process;
mod remote;
mod service;
pub mod spdy;
#[cfg(test)]
mod tests;
mod websocket;

pub use backend::{Backend, ExecRequest, LogSource, Process, Size};
pub use log_reader::LogOptions;
pub use service::{Gate, serve};
