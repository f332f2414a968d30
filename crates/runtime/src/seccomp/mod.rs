//! System call filters: the default list, profiles, and their translation to the kernel's filter programs.

mod compile;
mod default_list;
mod policy;
mod table;

pub(crate) use policy::{default_filter, profile_filter};
