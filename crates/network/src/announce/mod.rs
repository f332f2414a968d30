//! Answers ARP and neighbour discovery for addresses that are on no interface: those of load balancers (decision 0014).
//!
//! `frame` reads and writes Ethernet frames, `machine` decides what is said, `worker` is the thread with the sockets.

mod frame;
mod interfaces;
mod machine;
mod socket;
mod worker;

pub use frame::{Claim, Heard, Mark, Question, parse};
pub use interfaces::subnets;
pub use worker::{Announcer, Conflicts, Handle, Options};
