//! The agent's end of its heartbeat, and the frames that both ends speak.
//!
//! Wire: docs/decisions/0010-node-loss-and-fencing.md, `klynge-heartbeat/1`: frames of eight bytes each way.

use crate::https::Https;
use object::Status;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, MissedTickBehavior};

/// The path that is upgraded.
pub const HEARTBEAT_PATH: &str = "/klynge/v1/heartbeat";
/// The protocol after the switch, with its version.
pub const HEARTBEAT_PROTOCOL: &str = "klynge-heartbeat/1";
/// How often an agent beats until the server asks for another period.
pub const BEAT_PERIOD: Duration = Duration::from_millis(200);
/// The longest period that a server asks for.
pub const BEAT_PERIOD_MAX: Duration = Duration::from_secs(10);
const BEAT_PERIOD_MIN: Duration = Duration::from_millis(50);
/// How long opening may take: a server that went away is tried again soon.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
/// Without an answer for so many periods (and at least this long) the connection is opened again.
const PERIODS_WITHOUT_ANSWER: u32 = 5;
const UNANSWERED_MIN: Duration = Duration::from_secs(1);

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// The agent lives.
    Beat,
    /// The server has seen a beat, and wants the next ones in this period.
    Answer,
    /// The server misses beats: beat now.
    Ask,
}

/// One frame of eight bytes: version, kind, period in milliseconds (two bytes), number (four bytes), big-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it says.
    pub kind: FrameKind,
    /// The period that the server asks for, in milliseconds; 0 in beats.
    pub period_ms: u16,
    /// Counts beats; an answer has the number of its beat.
    pub number: u32,
}

impl Frame {
    /// The length of every frame.
    pub const BYTES: usize = 8;
    const VERSION: u8 = 1;

    /// The frame's bytes.
    #[must_use]
    pub fn encode(self) -> [u8; Self::BYTES] {
        let kind = match self.kind {
            FrameKind::Beat => 1,
            FrameKind::Answer => 2,
            FrameKind::Ask => 3,
        };
        let ([p0, p1], [n0, n1, n2, n3]) = (self.period_ms.to_be_bytes(), self.number.to_be_bytes());
        [Self::VERSION, kind, p0, p1, n0, n1, n2, n3]
    }

    /// The frame in these bytes; None for a kind that a later release may have added.
    ///
    /// # Errors
    /// A sentence, when they are of another version.
    pub fn decode(bytes: [u8; Self::BYTES]) -> Result<Option<Self>, String> {
        let [version, kind, p0, p1, n0, n1, n2, n3] = bytes;
        if version != Self::VERSION {
            return Err(format!("a heartbeat frame of version {version}, not {}", Self::VERSION));
        }
        let kind = match kind {
            1 => FrameKind::Beat,
            2 => FrameKind::Answer,
            3 => FrameKind::Ask,
            _ => return Ok(None),
        };
        let (period_ms, number) = (u16::from_be_bytes([p0, p1]), u32::from_be_bytes([n0, n1, n2, n3]));
        Ok(Some(Frame { kind, period_ms, number }))
    }
}

/// Opens a connection of its own and beats on it until it breaks or the server stops answering. `heard` is called with
/// every sign of the server.
///
/// # Errors
/// The server's refusal, or why the heartbeat ended.
pub async fn beat(client: &Https, mut heard: impl FnMut()) -> Result<(), Status> {
    let opening = tokio::time::timeout(OPEN_TIMEOUT, client.upgrade(HEARTBEAT_PATH, HEARTBEAT_PROTOCOL)).await;
    let mut stream = opening.map_err(|_| Status::unavailable("the server did not answer in time"))??;
    let broke = |error: &dyn std::fmt::Display| Status::unavailable(format!("the heartbeat broke: {error}"));
    let mut period = BEAT_PERIOD;
    let mut beats = tokio::time::interval(period);
    // After a pause one beat is due, not all that were missed.
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut number, mut buffer, mut filled) = (0_u32, [0_u8; Frame::BYTES], 0);
    let mut unanswered_since: Option<Instant> = None;
    loop {
        tokio::select! {
            read = stream.read(&mut buffer[filled..]) => {
                let count = read.map_err(|error| broke(&error))?;
                if count == 0 {
                    return Ok(());
                }
                filled += count;
                if filled < Frame::BYTES {
                    continue;
                }
                filled = 0;
                heard();
                unanswered_since = None;
                let Some(frame) = Frame::decode(buffer).map_err(|error| broke(&error))? else { continue };
                let asked = Duration::from_millis(u64::from(frame.period_ms)).clamp(BEAT_PERIOD_MIN, BEAT_PERIOD_MAX);
                if asked != period {
                    tracing::info!(period_ms = frame.period_ms, "the server asks for another heartbeat period");
                    period = asked;
                    beats = tokio::time::interval_at(Instant::now() + period, period);
                    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
                }
                if frame.kind == FrameKind::Ask {
                    beats.reset_immediately();
                }
            }
            _ = beats.tick() => {
                let patience = (period * PERIODS_WITHOUT_ANSWER).max(UNANSWERED_MIN);
                let since = *unanswered_since.get_or_insert_with(Instant::now);
                if since.elapsed() > patience {
                    return Err(Status::unavailable("the server does not answer heartbeats"));
                }
                number = number.wrapping_add(1);
                let frame = Frame { kind: FrameKind::Beat, period_ms: 0, number };
                let writing = async {
                    stream.write_all(&frame.encode()).await?;
                    stream.flush().await
                };
                match tokio::time::timeout(patience, writing).await {
                    Ok(written) => written.map_err(|error| broke(&error))?,
                    Err(_) => return Err(Status::unavailable("the server takes no heartbeats")),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn frames_keep_what_they_say_and_other_versions_are_refused() {
        for kind in [FrameKind::Beat, FrameKind::Answer, FrameKind::Ask] {
            let frame = Frame { kind, period_ms: 10_000, number: 0xfedc_ba98 };
            assert_eq!(Frame::decode(frame.encode()).unwrap(), Some(frame));
        }
        assert_eq!(Frame::decode([1, 9, 0, 0, 0, 0, 0, 0]).unwrap(), None, "a later kind is passed over");
        assert!(Frame::decode([2, 1, 0, 0, 0, 0, 0, 0]).unwrap_err().contains("version 2"));
    }
}
