//! Why a patch was refused, with what upstream answers.

use crate::Status;

/// A refused patch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself makes no sense: 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object: 422.
    #[error("{0}")]
    Unprocessable(String),
    /// More operations, or more copied data, than one request may ask for: 413.
    #[error("{0}")]
    TooLarge(String),
}

impl From<PatchError> for Status {
    fn from(error: PatchError) -> Self {
        let (code, reason) = match error {
            PatchError::Malformed(_) => (400, "BadRequest"),
            PatchError::Unprocessable(_) => (422, "Invalid"),
            PatchError::TooLarge(_) => (413, "RequestEntityTooLarge"),
        };
        Status::new(code, reason, error.to_string())
    }
}
