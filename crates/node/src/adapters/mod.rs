//! The agent's two seams over the rooms that stand behind them.

mod network;
mod runtime;

pub use network::NetworkAdapter;
pub(crate) use network::protocol;
pub use runtime::RuntimeAdapter;
