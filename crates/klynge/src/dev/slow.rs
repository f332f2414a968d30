//! Slow and lossy links: what can be asked for, how it is written, and how it is put on a node's port of the bridge and taken away.
//!
//! Loss is a random drop in nftables, a rate alone a token bucket. A delay is the kernel's netem, or where the kernel has none a process that
//! lets the kernel hold the packets in a queue ([`super::delay`]).

use super::plan;
use super::switch::{INSIDE, Switch, failed, is_nothing};
use crate::cli::Failure;
use network::netlink::{
    ChainSpec, Delay, Expressions, Family, Hook, NetworkNamespace, Nft, NftBatch, Register, RouteBatch, Rtnetlink,
    TokenBucket,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A longer way than to the moon and back is a partition.
const DELAY_MS_MAX: u32 = 10_000;
/// Packets that wait in each direction; netem drops what is more, the queue lets it pass.
pub(super) const PACKETS_MAX: u32 = 10_000;
/// A twentieth of a second of the rate may be sent at once, ten packets at least; as much again may wait.
const BURST_SHARE: u64 = 20;
const BURST_BYTES_MIN: u64 = 15_000;
const BURST_BYTES_MAX: u64 = 256 << 20;

/// How a delay is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Form {
    /// The kernel's netem.
    Netem,
    /// A packet queue and a process.
    Queue,
}

/// What a node's link is made to do, in each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Slow {
    pub(super) delay_ms: u32,
    pub(super) jitter_ms: u32,
    /// Of ten thousand packets.
    pub(super) lost: u32,
    /// Bits per second.
    pub(super) rate: Option<u64>,
    /// What delays; none where nothing does.
    #[serde(default)]
    pub(super) form: Option<Form>,
}

/// Milliseconds: `50`, `50ms`, `1s`.
pub(super) fn parse_delay(text: &str) -> Result<u32, String> {
    let (number, factor) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, 1),
        (None, Some(number)) => (number, 1000),
        (None, None) => (text, 1),
    };
    let parsed = number.parse::<u32>().ok().and_then(|number| number.checked_mul(factor));
    parsed
        .filter(|delay| *delay <= DELAY_MS_MAX)
        .ok_or_else(|| format!("expected milliseconds up to {DELAY_MS_MAX}, such as 50, 50ms or 1s"))
}

/// Percent with up to two decimals: `10`, `0.5`, `10%`; of ten thousand.
pub(super) fn parse_loss(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix('%').unwrap_or(text);
    let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let padded = format!("{decimals:0<2}");
    let parsed = (digits(whole) && digits(decimals) && decimals.len() <= 2)
        .then(|| Some(whole.parse::<u32>().ok()?.checked_mul(100)? + padded.parse::<u32>().ok()?))
        .flatten();
    parsed
        .filter(|lost| *lost <= 10_000)
        .ok_or_else(|| "expected a percentage from 0 to 100 with at most two decimals, such as 10 or 0.5".to_owned())
}

/// Bits per second: `100kbit`, `10mbit`, `1gbit`.
pub(super) fn parse_rate(text: &str) -> Result<u64, String> {
    let units = [("kbit", 1_000_u64), ("mbit", 1_000_000), ("gbit", 1_000_000_000), ("bit", 1)];
    let parsed = units.iter().find_map(|(unit, factor)| {
        let number = text.strip_suffix(unit)?.trim();
        Some(number.parse::<u64>().ok().and_then(|number| number.checked_mul(*factor)))
    });
    parsed
        .flatten()
        .filter(|rate| (8_000..=1_000_000_000_000).contains(rate))
        .ok_or_else(|| "expected bits per second from 8kbit to 1000gbit, such as 500kbit, 10mbit or 1gbit".to_owned())
}

impl Slow {
    /// Refuses what says nothing or contradicts itself.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.jitter_ms > self.delay_ms {
            return Err(format!(
                "--jitter {} is more than --delay {}: a packet cannot arrive before it was sent",
                self.jitter_ms, self.delay_ms
            ));
        }
        if self.delay_ms == 0 && self.lost == 0 && self.rate.is_none() {
            return Err("give --delay, --loss or --rate; or --off to undo them".to_owned());
        }
        Ok(())
    }

    /// `delay 50ms ±10ms (netem), loss 10%, rate 10mbit`.
    pub(super) fn describe(&self) -> String {
        let mut parts = Vec::new();
        if self.delay_ms > 0 {
            let mut part = format!("delay {}ms", self.delay_ms);
            if self.jitter_ms > 0 {
                part.push_str(&format!(" ±{}ms", self.jitter_ms));
            }
            part.push_str(match self.form {
                Some(Form::Netem) => " by netem",
                Some(Form::Queue) => " by a queue",
                None => "",
            });
            parts.push(part);
        }
        if self.lost > 0 {
            let decimals = format!("{}.{:02}", self.lost / 100, self.lost % 100);
            parts.push(format!("loss {}%", decimals.trim_end_matches('0').trim_end_matches('.')));
        }
        if let Some(rate) = self.rate {
            let units = [("gbit", 1_000_000_000), ("mbit", 1_000_000), ("kbit", 1_000), ("bit", 1)];
            let unit = units.iter().find(|(_, factor)| rate % factor == 0);
            parts.push(unit.map_or_else(String::new, |(unit, factor)| format!("rate {}{unit}", rate / factor)));
        }
        parts.join(", ")
    }

    fn rate_bytes(&self) -> Option<u64> {
        self.rate.map(|rate| rate / 8)
    }

    fn bucket(&self) -> Option<TokenBucket> {
        let rate = self.rate_bytes()?;
        let burst = (rate / BURST_SHARE).clamp(BURST_BYTES_MIN, BURST_BYTES_MAX);
        let bytes = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        Some(TokenBucket { rate_bytes_per_second: rate, burst_bytes: bytes(burst), limit_bytes: bytes(burst * 2) })
    }
}

/// The chains of a node that lose packets, and that queue them: name, whether they see what the node sends.
fn loss_chains(number: u16) -> [(String, bool); 2] {
    [(format!("lose-from-{number}"), true), (format!("lose-to-{number}"), false)]
}

/// The queue's number inside a node, where nothing else has queues.
pub(super) const QUEUE: u16 = 8477;
/// Before and after all else that looks at packets.
const PRIORITY_ARRIVING: i32 = -500;
const PRIORITY_LEAVING: i32 = 500;
const SCRATCH: Register = Register::new(0);

impl Switch<'_> {
    /// Both ends of a node's link: what is sent to the node leaves through the port, what it sends through its own interface.
    fn ends(&self, number: u16, init: i32) -> Result<[(Rtnetlink, u32); 2], Failure> {
        let inside = NetworkNamespace::of_process(init.unsigned_abs()).map_err(failed)?;
        let outer = Rtnetlink::open_in(self.namespace).map_err(failed)?;
        let inner = Rtnetlink::open_in(&inside).map_err(failed)?;
        let port = outer.index_of(&plan::port(self.name, number)).map_err(failed)?;
        let interface = inner.index_of(INSIDE).map_err(failed)?;
        Ok([(outer, port), (inner, interface)])
    }

    /// Slows a node's link; the form of the delay, where there is one. [`Form::Queue`] is still to be made.
    pub(super) fn slow(&self, number: u16, init: i32, slow: &Slow) -> Result<Option<Form>, Failure> {
        self.lose(number, slow.lost)?;
        let mut form = None;
        for (mut rtnetlink, interface) in self.ends(number, init)? {
            let mut batch = RouteBatch::new();
            if slow.delay_ms > 0 && form != Some(Form::Queue) {
                batch.set_delay(
                    interface,
                    &Delay {
                        delay: Duration::from_millis(slow.delay_ms.into()),
                        jitter: Duration::from_millis(slow.jitter_ms.into()),
                        rate_bytes_per_second: slow.rate_bytes(),
                        limit_packets: PACKETS_MAX,
                    },
                );
                match batch.send(rtnetlink.socket()) {
                    Ok(()) => {
                        form = Some(Form::Netem);
                        continue;
                    }
                    Err(error) if is_nothing(&error) => form = Some(Form::Queue),
                    Err(error) => return Err(failed(error)),
                }
            }
            if let Some(bucket) = slow.bucket() {
                let mut batch = RouteBatch::new();
                batch.set_token_bucket(interface, &bucket);
                batch.send(rtnetlink.socket()).map_err(failed)?;
            }
        }
        Ok(form)
    }

    fn lose(&self, number: u16, lost: u32) -> Result<(), Failure> {
        if lost == 0 {
            return Ok(());
        }
        let (table, port) = (plan::table(self.name), plan::port(self.name, number));
        let mut batch = NftBatch::new();
        for (chain, sends) in loss_chains(number) {
            batch.add_device_loss(&table, &chain, &port, sends, lost);
        }
        let mut nft = Nft::open_in(self.namespace).map_err(failed)?;
        batch.commit(nft.socket()).map_err(|error| {
            Failure::Failed(format!(
                "{error}; loss takes a kernel with nftables' netdev family and its egress hook (5.16)"
            ))
        })
    }

    /// Undoes [`Self::slow`] and what [`hold`] made; no error where there is nothing to undo.
    pub(super) fn unslow(&self, number: u16, init: Option<i32>) -> Result<(), Failure> {
        let mut nft = Nft::open_in(self.namespace).map_err(failed)?;
        let table = plan::table(self.name);
        for (chain, _) in loss_chains(number) {
            let mut batch = NftBatch::new();
            batch.delete_device_chain(&table, &chain);
            match batch.commit(nft.socket()) {
                Err(error) if !is_nothing(&error) => return Err(failed(error)),
                _ => {}
            }
        }
        // Without its init the node is off, and its link went with it.
        let Some(init) = init.filter(|_| self.is_connected(number).unwrap_or(false)) else { return Ok(()) };
        let inside = NetworkNamespace::of_process(init.unsigned_abs()).map_err(failed)?;
        let mut nft = Nft::open_in(&inside).map_err(failed)?;
        let mut batch = NftBatch::new();
        batch.delete_table_if_exists(Family::Ip, &table);
        batch.commit(nft.socket()).map_err(failed)?;
        for (mut rtnetlink, interface) in self.ends(number, init)? {
            let mut batch = RouteBatch::new();
            batch.delete_queue(interface);
            match batch.send(rtnetlink.socket()) {
                Err(error) if !is_nothing(&error) => return Err(failed(error)),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Hands what a node sends and gets to its queue, from inside: extensions such as NFQUEUE are not for bridges. What the node's own rules make
/// of packets is done before they wait, or after.
pub(super) fn hold(cluster: &str, inside: &NetworkNamespace) -> network::netlink::Result<()> {
    let table = plan::table(cluster);
    let mut batch = NftBatch::new();
    batch.delete_table_if_exists(Family::Ip, &table);
    batch.add_table(Family::Ip, &table);
    for (chain, hook, priority) in
        [("arriving", Hook::Prerouting, PRIORITY_ARRIVING), ("leaving", Hook::Postrouting, PRIORITY_LEAVING)]
    {
        batch.add_chain(Family::Ip, &table, &ChainSpec { name: chain, base: Some((hook, "filter", priority)) });
        let rule = Expressions::new();
        let rule = match hook {
            Hook::Prerouting => rule.match_input_interface(INSIDE, false, SCRATCH),
            _ => rule.match_output_interface(INSIDE, false, SCRATCH),
        };
        batch.add_rule(Family::Ip, &table, chain, &rule.queue(QUEUE));
    }
    batch.commit(Nft::open_in(inside)?.socket())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_typed_is_read_and_the_rest_refused() {
        for (text, wanted) in [("0", Some(0)), ("50", Some(50)), ("50ms", Some(50)), ("1s", Some(1000))] {
            assert_eq!(parse_delay(text).ok(), wanted, "{text}");
        }
        for text in ["", "-1", "1.5", "10001", "11s", "4294968s", "50 m"] {
            assert!(parse_delay(text).is_err(), "{text}");
        }
        for (text, wanted) in [("10", 1000), ("10%", 1000), ("0.5", 50), ("0.05", 5), ("100", 10_000), ("0", 0)] {
            assert_eq!(parse_loss(text), Ok(wanted), "{text}");
        }
        for text in ["", "%", "-1", "101", "100.01", "0.005", "1e1", "a", "99999999999"] {
            assert!(parse_loss(text).is_err(), "{text}");
        }
        for (text, wanted) in [("8kbit", 8_000), ("10mbit", 10_000_000), ("1gbit", 1_000_000_000), ("9000bit", 9_000)] {
            assert_eq!(parse_rate(text), Ok(wanted), "{text}");
        }
        for text in ["", "10", "1kbit", "mbit", "10MB", "-1mbit", "99999999999gbit"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn it_is_told_as_it_was_typed() {
        let slow = |delay_ms, jitter_ms, lost, rate, form| Slow { delay_ms, jitter_ms, lost, rate, form };
        assert_eq!(
            slow(50, 10, 1050, Some(10_000_000), Some(Form::Netem)).describe(),
            "delay 50ms ±10ms by netem, loss 10.5%, rate 10mbit"
        );
        assert_eq!(slow(50, 0, 0, None, Some(Form::Queue)).describe(), "delay 50ms by a queue");
        assert_eq!(slow(0, 0, 1, Some(1_500_000), None).describe(), "loss 0.01%, rate 1500kbit");
        assert!(slow(5, 6, 0, None, None).check().is_err());
        assert!(slow(0, 0, 0, None, None).check().is_err());
        assert!(slow(0, 0, 1, None, None).check().is_ok());
    }
}
