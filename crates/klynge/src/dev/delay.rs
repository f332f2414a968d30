//! The process that delays a node's packets where the kernel has no netem: the kernel keeps them in a queue, this process says when they may
//! go. What does not fit into the queue passes, and without the process all of it does.

use super::boot::{Entry, FORMAT};
use super::plan;
use super::record::Record;
use super::slow::{PACKETS_MAX, QUEUE, Slow, hold};
use super::{groups, system};
use crate::cli::Failure;
use network::netlink::{NetworkNamespace, PacketQueue};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The hidden command.
pub(crate) const DELAY_WORD: &str = "dev-delay";
const READY: &str = "ready";

/// What the process must know.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    format: u32,
    entries: Vec<Entry>,
    cluster: String,
    /// The process id of the node's init.
    init: i32,
    delay_ms: u32,
    jitter_ms: u32,
}

/// Starts the process for a node and waits until the queue is there; it is found by its control group, like all of a cluster's.
pub(super) fn start(record: &Record, number: u16, init: i32, slow: &Slow) -> Result<(), Failure> {
    let place = plan::delay_number(number);
    let (entries, _) = groups::make_node(&record.hierarchies, &record.group, place, groups::Limits::default())?;
    let order = Order {
        format: FORMAT,
        entries,
        cluster: record.name.clone(),
        init,
        delay_ms: slow.delay_ms,
        jitter_ms: slow.jitter_ms,
    };
    let failed = |error: io::Error| {
        Failure::Failed(format!("cannot delay packets of {}: {error}", plan::node_name(&record.name, number)))
    };
    let path = record.file(place, "json");
    fs::write(&path, serde_json::to_vec(&order).map_err(|error| failed(error.into()))?).map_err(failed)?;
    let log = fs::File::create(record.file(place, "log")).map_err(failed)?;
    let mut process = Command::new(system::this_binary());
    process.arg(DELAY_WORD).arg(&path).env_clear().current_dir("/").stdin(Stdio::null());
    let mut child = process.stdout(Stdio::piped()).stderr(log).spawn().map_err(failed)?;
    let mut said = String::new();
    if let Some(output) = child.stdout.take() {
        // It says one word, or ends; each of its steps on the way has a limit of its own.
        BufReader::new(output).read_line(&mut said).map_err(failed)?;
    }
    if said.trim() == READY {
        return Ok(());
    }
    let _ = child.wait(); // it has ended, and its words say how
    let words = fs::read_to_string(record.file(place, "log")).unwrap_or_default();
    stop(record, number)?;
    Err(Failure::Failed(format!(
        "cannot delay packets of {}: {}",
        plan::node_name(&record.name, number),
        words.trim().strip_prefix("dev-delay: ").unwrap_or(words.trim())
    )))
}

/// Ends it; no error where there is none.
pub(super) fn stop(record: &Record, number: u16) -> Result<(), Failure> {
    let place = plan::delay_number(number);
    groups::kill(&record.hierarchies, &record.group, Some(place))?;
    groups::remove(&record.hierarchies, &record.group, Some(place))?;
    for ending in ["json", "log"] {
        let _ = fs::remove_file(record.file(place, ending)); // `down` removes what stays
    }
    Ok(())
}

/// The process itself.
pub(super) fn run(path: &Path) -> Result<(), Failure> {
    let unreadable =
        |error: &dyn std::fmt::Display| Failure::Failed(format!("cannot read {}: {error}", path.display()));
    let bytes = fs::read(path).map_err(|error| unreadable(&error))?;
    let order: Order = serde_json::from_slice(&bytes).map_err(|error| unreadable(&error))?;
    if order.format != FORMAT {
        return Err(unreadable(&format!("format {}, not {FORMAT}", order.format)));
    }
    rustix::process::setsid().map_err(|error| Failure::Failed(format!("cannot leave the session: {error}")))?;
    groups::enter(&order.entries)?;
    serve(&order).map_err(|error| {
        Failure::Failed(format!(
            "{error}; a delay takes a kernel with netem (sch_netem), or with packet queues (nfnetlink_queue, the extension NFQUEUE, nft_compat)"
        ))
    })
}

fn serve(order: &Order) -> network::netlink::Result<()> {
    let inside = NetworkNamespace::of_process(order.init.unsigned_abs())?;
    let mut queue = PacketQueue::open_in(&inside, QUEUE, PACKETS_MAX)?;
    hold(&order.cluster, &inside)?;
    drop(inside);
    // The command waits for the word, and may be gone afterwards.
    let _ = writeln!(io::stdout(), "{READY}");
    let mut held = Held::new(order);
    loop {
        let now = Instant::now();
        if let Some(number) = held.due(now) {
            queue.release(number)?;
        }
        let wait = held.packets.front().map(|(due, _)| due.saturating_duration_since(now));
        let arrived = queue.arrivals(wait)?;
        let now = Instant::now();
        arrived.into_iter().for_each(|number| held.take(number, now));
    }
}

/// The packets that wait, in their order: jitter lets none overtake another.
struct Held {
    packets: VecDeque<(Instant, u32)>,
    delay: Duration,
    jitter_us: u64,
    random: u64,
}

impl Held {
    fn new(order: &Order) -> Self {
        let delay = Duration::from_millis(order.delay_ms.saturating_sub(order.jitter_ms).into());
        Held {
            packets: VecDeque::new(),
            delay,
            jitter_us: u64::from(order.jitter_ms) * 2_000,
            random: 0x9e37_79b9_7f4a_7c15,
        }
    }

    fn take(&mut self, number: u32, now: Instant) {
        let mut due = now + self.delay;
        if self.jitter_us > 0 {
            // xorshift64: no secret, and no two runs need to differ.
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            due += Duration::from_micros(self.random % (self.jitter_us + 1));
        }
        if let Some((last, _)) = self.packets.back() {
            due = due.max(*last);
        }
        // The kernel lets pass what is more, so no more than these can wait.
        if self.packets.len() < PACKETS_MAX as usize * 2 {
            self.packets.push_back((due, number));
        }
    }

    /// The last packet that may go, which takes all before it along.
    fn due(&mut self, now: Instant) -> Option<u32> {
        let mut last = None;
        while let Some((_, number)) = self.packets.pop_front_if(|(due, _)| *due <= now) {
            last = Some(number);
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_wait_their_time_and_keep_their_order() {
        let order =
            Order { format: FORMAT, entries: Vec::new(), cluster: String::new(), init: 1, delay_ms: 50, jitter_ms: 20 };
        let mut held = Held::new(&order);
        let begun = Instant::now();
        let after = |ms| begun + Duration::from_millis(ms);
        (1..=100).for_each(|number| held.take(number, begun));
        assert_eq!(held.due(after(29)), None);
        let dues: Vec<Instant> = held.packets.iter().map(|(due, _)| *due).collect();
        assert!(dues.is_sorted());
        assert!(dues.iter().all(|due| (after(30)..=after(70)).contains(due)));
        assert_ne!(dues.first(), dues.last(), "they vary");
        assert_eq!(held.due(after(70)), Some(100));
        assert_eq!(held.due(after(71)), None);
    }
}
