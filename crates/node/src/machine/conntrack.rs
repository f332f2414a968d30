//! The kernel's table of tracked connections: what has no place in it is dropped without a word to anybody, so the node tells of it.
//!
//! The reason is node-problem-detector's `ConntrackFull`. Services, pods' way out and network policies need the table; connections that
//! are in it go on when it is full, new ones do not begin.

use crate::lifecycle::Severity;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const FULL: &str = "ConntrackFull";
const AVAILABLE: &str = "ConntrackAvailable";
/// It is told while it lasts, since events are forgotten after an hour.
const TELL_EVERY: Duration = Duration::from_secs(600);

/// What the kernel says of the table of this network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    count: u64,
    most: u64,
    /// Packets that were dropped for want of a place, since the machine began.
    dropped: u64,
}

impl Usage {
    /// None where the kernel tracks nothing yet, or is asked in vain.
    fn read(proc: &Path) -> Option<Self> {
        let number = |name: &str| {
            let text = fs::read_to_string(proc.join("sys/net/netfilter").join(name)).ok()?;
            text.trim().parse().ok()
        };
        // Without these statistics the count alone tells.
        let statistics = fs::read_to_string(proc.join("net/stat/nf_conntrack")).unwrap_or_default();
        Some(Usage {
            count: number("nf_conntrack_count")?,
            most: number("nf_conntrack_max")?,
            dropped: dropped(&statistics),
        })
    }

    /// Nine tenths: the kernel forgets what it can spare at the end, so that the count need not meet the limit.
    fn is_full(self) -> bool {
        self.most > 0 && self.count >= self.most - self.most / 10
    }

    /// Room enough that it is not told to and fro.
    fn is_available(self) -> bool {
        self.most == 0 || self.count < self.most - self.most / 5
    }
}

/// The sum over all CPUs of the column `drop`; numbers are hexadecimal, and columns differ among kernels.
fn dropped(statistics: &str) -> u64 {
    let mut lines = statistics.lines();
    let column = lines.next().and_then(|heads| heads.split_whitespace().position(|head| head == "drop"));
    let Some(column) = column else { return 0 };
    let of_cpu = |line: &str| u64::from_str_radix(line.split_whitespace().nth(column)?, 16).ok();
    lines.filter_map(of_cpu).fold(0, u64::saturating_add)
}

/// Remembers what was told.
#[derive(Debug)]
pub(super) struct ConntrackWatch {
    proc: PathBuf,
    before: Option<Usage>,
    /// When it was told last that the table is full; None while it is not.
    told: Option<Instant>,
}

impl Default for ConntrackWatch {
    fn default() -> Self {
        ConntrackWatch { proc: "/proc".into(), before: None, told: None }
    }
}

/// Something to tell of the node.
pub(super) type News = (Severity, &'static str, String);

impl ConntrackWatch {
    /// Looks at the table; three small files.
    pub(super) fn look(&mut self, now: Instant) -> Option<News> {
        let usage = Usage::read(&self.proc)?;
        let before = self.before.replace(usage);
        self.judge(before.unwrap_or(usage), usage, now)
    }

    fn judge(&mut self, before: Usage, usage: Usage, now: Instant) -> Option<News> {
        let dropped = usage.dropped.saturating_sub(before.dropped);
        if usage.is_full() || dropped > 0 {
            if self.told.is_some_and(|at| now.saturating_duration_since(at) < TELL_EVERY) {
                return None;
            }
            self.told = Some(now);
            let Usage { count, most, .. } = usage;
            let lost =
                if dropped > 0 { format!(", and {dropped} packets were dropped just now") } else { String::new() };
            let message = format!(
                "Conntrack table full: {count} of {most} tracked connections are in use{lost}. New connections of pods, Services and this \
                 machine fail when there is no place. Raise net.netfilter.nf_conntrack_max (`sysctl -w net.netfilter.nf_conntrack_max={}`, and in \
                 /etc/sysctl.d to keep it), or find who opens so many: `conntrack -L`",
                most.saturating_mul(2)
            );
            return Some((Severity::Warning, FULL, message));
        }
        if usage.is_available() && self.told.take().is_some() {
            let message =
                format!("Conntrack table available: {} of {} tracked connections are in use", usage.count, usage.most);
            return Some((Severity::Normal, AVAILABLE, message));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn it_is_told_once_again_while_it_lasts_and_when_it_is_over() {
        let mut watch = ConntrackWatch::default();
        let begun = Instant::now();
        let mut before = Usage { count: 0, most: 1000, dropped: 7 };
        let mut at = |seconds, count, dropped| {
            let usage = Usage { count, most: 1000, dropped };
            let news = watch.judge(std::mem::replace(&mut before, usage), usage, begun + Duration::from_secs(seconds));
            news.map(|(_, reason, message)| (reason, message))
        };
        assert_eq!(at(0, 899, 7), None);
        let (reason, message) = at(10, 900, 7).unwrap();
        assert_eq!(reason, FULL);
        assert!(message.starts_with("Conntrack table full: 900 of 1000 tracked connections are in use."), "{message}");
        assert!(message.contains("sysctl -w net.netfilter.nf_conntrack_max=2000"), "{message}");
        assert_eq!((at(20, 1000, 7), at(30, 850, 7)), (None, None), "neither told again at once nor over yet");
        assert_eq!(at(611, 1000, 7).unwrap().0, FULL);
        assert_eq!(at(620, 799, 7).unwrap().0, AVAILABLE);
        assert_eq!(at(630, 0, 7), None);
        // A burst between two looks leaves nothing but its drops.
        let (reason, message) = at(640, 10, 12).unwrap();
        assert!(reason == FULL && message.contains("and 5 packets were dropped just now"), "{message}");
        assert_eq!(at(650, 10, 12).unwrap().0, AVAILABLE);
    }

    #[test]
    fn the_kernels_files_are_read_whatever_their_columns() {
        let directory = tempfile::tempdir().unwrap();
        let mut watch = ConntrackWatch { proc: directory.path().into(), ..ConntrackWatch::default() };
        assert!(watch.look(Instant::now()).is_none(), "a kernel that tracks nothing");
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("sys/net/netfilter/nf_conntrack_count", "95\n");
        write("sys/net/netfilter/nf_conntrack_max", "100\n");
        assert_eq!(Usage::read(directory.path()), Some(Usage { count: 95, most: 100, dropped: 0 }));
        write(
            "net/stat/nf_conntrack",
            "entries found drop early_drop\n0000005f 00000001 0000000a 00000000\n0000005f 00000001 00000006 00000000\n",
        );
        assert_eq!(Usage::read(directory.path()), Some(Usage { count: 95, most: 100, dropped: 16 }));
        let (_, reason, message) = watch.look(Instant::now()).unwrap();
        assert!(
            reason == FULL && !message.contains("dropped just now"),
            "what was dropped before is no news: {message}"
        );
    }
}
