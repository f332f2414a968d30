//! What every kind's validation shares: causes in upstream's words, and the rules for metadata.

mod address;
mod cause;
mod change;
mod metadata;

pub(crate) use address::{canonical_range, endpoint_address};
pub use cause::{duplicate, forbidden, invalid, invalid_text, not_found, not_supported, required, too_long};
pub(crate) use cause::{each, has_text, in_range, one_of};
pub(crate) use change::immutable;
pub(crate) use metadata::validate_labels;
pub use metadata::{ANNOTATIONS_BYTES_MAX, validate_metadata, validate_metadata_update};
