//! Processes beside the agent, which outlive it and hold what must not stop: how one is found, started, told what has changed and
//! replaced, whatever it does (docs/decisions/0015-dns-process.md).

mod find;
mod frame;
mod kind;
mod link;
mod serve;
mod start;
mod supervise;

pub(crate) use find::end;
pub use frame::{FRAME_BYTES_MAX, Malformed};
#[cfg(test)]
pub(crate) use frame::{LENGTH_BYTES, frame_length, greeted, greeting};
pub(crate) use frame::{Reader, Writer};
pub(crate) use kind::{DESCRIPTORS_MAX, Held, Kind, Message};
pub(crate) use link::Link;
pub(crate) use serve::{attend, give_up_rights, start_up};
pub(crate) use supervise::{Changes, Source, Supervised, supervise, take_up};
pub use supervise::{Health, Options};
