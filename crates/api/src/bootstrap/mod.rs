//! What every cluster has from its first moment, written through the one write door where it is missing.

mod api_services;
mod flow_control;
mod objects;
mod run;

pub(crate) use run::{keep_own, run};
