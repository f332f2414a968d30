//! The one write door: every change of cluster state, from clients and from our own rooms, passes here.

pub(crate) mod address_range;
mod carry_over;
pub(crate) mod commit;
mod create;
mod delete;
mod eviction;
mod metadata;
mod patch;
mod prepare;
mod service_families;
pub(crate) mod services;
mod subresources;
mod update;

pub(crate) use create::create;
use create::create_hub;
pub(crate) use delete::{DeleteRequest, delete, delete_collection};
pub(crate) use eviction::{checked as checked_delete_options, from_value as delete_options};
pub(crate) use metadata::{cause, dry_run_cause, invalid_options, unsupported};
pub(crate) use patch::{PatchBody, patch};
pub(crate) use prepare::{Body, to_version};
pub(crate) use subresources::{bind, connect, get_scale, is_scale, update_scale};
pub(crate) use update::update;
