//! Why an apply was refused.

use super::managers::Identity;
use super::set::Set;
use crate::{Cause, Status};

/// A refused apply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Fields belong to other managers and would change: force takes them over.
    #[error("{message}")]
    Conflicts {
        /// One per field.
        causes: Vec<Cause>,
        /// All of them in one text.
        message: String,
    },
    /// The configuration does not fit its schema; each fault with its path.
    #[error("{0}")]
    Unfit(String),
    /// The configuration itself is wrong.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    pub(super) fn conflicts(mut conflicts: Vec<(Identity, Set)>) -> Self {
        conflicts.sort_by_key(|(manager, _)| manager.shown());
        let all: Vec<(String, Vec<String>)> =
            conflicts.iter().map(|(manager, set)| (manager.shown(), set.paths())).collect();
        let mut causes = Vec::new();
        for (manager, paths) in &all {
            causes.extend(paths.iter().map(|path| Cause {
                reason: "FieldManagerConflict".into(),
                message: format!("conflict with {manager}"),
                field: path.clone(),
            }));
        }
        let message = match causes.as_slice() {
            [one] => format!("Apply failed with 1 conflict: {}: {}", one.message, one.field),
            many => {
                let lines = all.iter().flat_map(|(manager, paths)| {
                    let head = std::iter::once(format!("conflicts with {manager}:"));
                    head.chain(paths.iter().map(|path| format!("- {path}")))
                });
                format!("Apply failed with {} conflicts: {}", many.len(), lines.collect::<Vec<_>>().join("\n"))
            }
        };
        Error::Conflicts { causes, message }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match error {
            Error::Conflicts { causes, message } => {
                let mut status = Status::new(409, "Conflict", message);
                status.causes = causes;
                status
            }
            Error::Unfit(message) | Error::Invalid(message) => Status::new(422, "Invalid", message),
        }
    }
}
