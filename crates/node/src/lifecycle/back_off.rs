//! Exponential back-off with upstream's numbers: 10 s doubling to 300 s, forgotten after twice the maximum without use.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

const INITIAL_SECONDS: u32 = 10;
const MAXIMUM_SECONDS: u32 = 300;

/// How long the next attempt has to wait after the last failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackOff {
    delay_seconds: u32,
    updated: Option<Timestamp>,
}

impl BackOff {
    /// The delay that holds now, in seconds; 0 before the first failure.
    #[must_use]
    pub fn delay_seconds(&self) -> u32 {
        self.delay_seconds
    }

    fn expired(&self, at: Timestamp) -> bool {
        self.updated.is_none_or(|updated| at.duration_since(updated).as_secs() > i64::from(MAXIMUM_SECONDS) * 2)
    }

    /// The moment until which an attempt after something that ended at `ended` has to wait; None when it may go on at once.
    #[must_use]
    pub fn until(&self, ended: Timestamp) -> Option<Timestamp> {
        if self.delay_seconds == 0 || self.expired(ended) {
            return None;
        }
        ended.checked_add(SignedDuration::from_secs(self.delay_seconds.into())).ok()
    }

    /// Counts one more attempt: doubles the delay, or starts again after a long quiet time.
    pub fn advance(&mut self, now: Timestamp) {
        self.delay_seconds = if self.delay_seconds == 0 || self.expired(now) {
            INITIAL_SECONDS
        } else {
            (self.delay_seconds * 2).min(MAXIMUM_SECONDS)
        };
        self.updated = Some(now);
    }
}
