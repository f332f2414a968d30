//! The agent's two seams over the rooms that stand behind them.

mod cni;
mod network;
mod runtime;

pub use cni::CniAdapter;
pub use network::NetworkAdapter;
pub(crate) use network::protocol;
pub use runtime::RuntimeAdapter;
