//! Services in nftables: what is wanted (state), what that means (compile), and bringing the kernel there (program).

mod claims;
mod compile;
mod error;
mod flows;
mod forgetter;
mod layout;
mod program;
mod state;
mod tokens;
mod worker;

pub use compile::{Action, Balance, CompiledPort, Front, FrontKey, Masquerade, compile};
pub use error::Error;
pub use layout::{MASQUERADE_MARK, TABLE};
pub use program::{Options, Programmer, Report, purge};
pub use state::{Endpoint, ServiceKey, ServicePort, ServiceState, TrafficPolicy, TransportProtocol};
pub use worker::{Handle, Services};
