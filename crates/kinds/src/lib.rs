//! The resource table: one row and one file per kind, and the schema data.
