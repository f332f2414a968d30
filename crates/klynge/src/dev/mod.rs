//! `klynge dev`: a cluster of several nodes on one machine, each a set of namespaces with an init of its own.

mod arguments;
mod birth;
mod boot;
mod control;
mod delay;
mod down;
mod enter;
mod groups;
mod images;
mod init;
mod lock;
mod machine;
mod namespace;
mod node;
mod plan;
mod record;
mod run;
mod slow;
mod status;
mod switch;
mod system;
mod up;

pub(crate) use arguments::DevCommand;
pub(crate) use delay::DELAY_WORD;
pub(crate) use init::{INIT_WORD, STAGE_WORD, hidden};
pub(crate) use run::run;
