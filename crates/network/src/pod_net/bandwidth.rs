//! Limits what a pod sends and receives, on the host's side, where nothing in the pod can undo it.
//!
//! What the pod receives is what the host's interface sends: a token bucket there. What the pod sends arrives at the host's interface, where
//! packets do not wait; it is led through an interface of kind ifb that has a token bucket, and goes on from the host's interface as if nothing
//! had happened, so that rules see the interface that they know. The kernel keeps all of it: a new agent changes nothing.

use super::attach::{PodNetwork, delete_interface};
use super::compile::interface_name;
use super::error::Error;
use super::reaper::Reaper;
use crate::netlink::{LinkInfo, RouteBatch, Rtnetlink, TokenBucket};
use crate::{BLOCK_INTERFACE_PREFIX, POD_INTERFACE_PREFIX};

/// The share of a second's bytes that may be sent at once, and the share that may wait.
const BURST_SHARE: u64 = 20;
/// Slow pods still get this many whole packets at once, and as many in the queue.
const PACKETS_MIN: u64 = 10;
/// What may be sent at once, or wait, at the highest: the kernel counts in 32 bits.
const BYTES_MAX: u64 = 256 << 20;
/// The Ethernet header that comes on top of the MTU.
const HEADER_BYTES: u64 = 14;
/// Whose an interface of ours is, and the word that follows once what arrives at the pod's interface is led through it.
const ALIAS: &str = "klynge limit ";
const WHOLE: &str = " whole";

/// How fast a pod may send and receive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// What the pod receives, in bits per second; none is unlimited.
    pub ingress_bits_per_second: Option<u64>,
    /// What the pod sends, in bits per second; none is unlimited.
    pub egress_bits_per_second: Option<u64>,
}

/// The bucket for a rate: a twentieth of a second may come at once, as much again may wait.
fn bucket(bits_per_second: u64, mtu_bytes: u32) -> TokenBucket {
    let rate = (bits_per_second / 8).max(1);
    let packets = PACKETS_MIN * (u64::from(mtu_bytes) + HEADER_BYTES);
    let burst = (rate / BURST_SHARE).clamp(packets, BYTES_MAX);
    let bytes = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    TokenBucket { rate_bytes_per_second: rate, burst_bytes: bytes(burst), limit_bytes: bytes(burst * 2) }
}

/// The interface that what a pod sends is led through.
pub(super) fn block_name(uid: &str) -> String {
    interface_name(uid).replacen(POD_INTERFACE_PREFIX, BLOCK_INTERFACE_PREFIX, 1)
}

/// The uid of the pod that an interface slows down, if it is such a one.
pub(super) fn parse_block(link: &LinkInfo) -> Option<&str> {
    let is_ours = link.kind == "ifb" && link.name.starts_with(BLOCK_INTERFACE_PREFIX);
    is_ours.then(|| link.alias.strip_prefix(ALIAS)?.split(' ').next()).flatten()
}

impl PodNetwork {
    /// Limits an attached pod. One that is limited already keeps its connections, and is never without a limit.
    pub fn limit(&mut self, uid: &str, bandwidth: Bandwidth) -> Result<(), Error> {
        if let Some(rate) = bandwidth.ingress_bits_per_second {
            let interface = self.rtnetlink.index_of(&interface_name(uid))?;
            let mut batch = RouteBatch::new();
            batch.set_token_bucket(interface, &bucket(rate, self.mtu_bytes));
            batch.send(self.rtnetlink.socket())?;
        }
        match bandwidth.egress_bits_per_second {
            Some(rate) => limit_sending(&mut self.rtnetlink, uid, &bucket(rate, self.mtu_bytes), self.mtu_bytes),
            None => Ok(()),
        }
    }

    /// Removes the interfaces that slow pods down which are not live.
    pub(super) fn remove_blocks(&mut self, is_live: impl Fn(&str) -> bool) -> Result<(), Error> {
        for link in self.rtnetlink.links()? {
            if parse_block(&link).is_some_and(|uid| !is_live(uid)) {
                self.delete_interface(&link.name)?;
            }
        }
        Ok(())
    }

    /// Removes what slowed an earlier interface of this pod down.
    pub(super) fn delete_block(&mut self, uid: &str) -> Result<(), Error> {
        let name = block_name(uid);
        let is_ours =
            |network: &mut Self| network.rtnetlink.link_by_name(&name).is_ok_and(|link| parse_block(&link).is_some());
        if self.rtnetlink.index_of(&name).is_ok() && is_ours(self) {
            self.delete_interface(&name)?;
        }
        Ok(())
    }

    /// Has the interface that slowed a pod down deleted within a second.
    pub(super) fn detach_block(&mut self, uid: &str) -> Result<(), Error> {
        let name = block_name(uid);
        if self.rtnetlink.index_of(&name).is_err() {
            return Ok(());
        }
        let mut batch = RouteBatch::new();
        Reaper::mark(&mut batch, &name);
        match batch.send(self.rtnetlink.socket()) {
            Err(error) if !error.is_not_found() => return Err(error.into()),
            _ => self.reaper.wake(),
        }
        Ok(())
    }
}

fn limit_sending(rtnetlink: &mut Rtnetlink, uid: &str, bucket: &TokenBucket, mtu_bytes: u32) -> Result<(), Error> {
    let (interface, block) = (rtnetlink.index_of(&interface_name(uid))?, block_name(uid));
    if let Ok(index) = rtnetlink.index_of(&block) {
        let link = rtnetlink.link_by_name(&block)?;
        if parse_block(&link) != Some(uid) {
            return Err(Error::BlockNameTaken { interface: block });
        }
        if link.alias.ends_with(WHOLE) {
            let mut batch = RouteBatch::new();
            batch.set_token_bucket(index, bucket);
            return Ok(batch.send(rtnetlink.socket())?);
        }
        delete_interface(rtnetlink, &block)?;
    }
    let made = make_block(rtnetlink, interface, &block, uid, bucket, mtu_bytes);
    if made.is_err() {
        // Best effort: the first error is the one to tell. What is led nowhere would be lost, so the filter goes first.
        let mut batch = RouteBatch::new();
        batch.delete_ingress(interface);
        let _ = batch.send(rtnetlink.socket());
        let _ = delete_interface(rtnetlink, &block);
    }
    made
}

fn make_block(
    rtnetlink: &mut Rtnetlink,
    interface: u32,
    name: &str,
    uid: &str,
    bucket: &TokenBucket,
    mtu_bytes: u32,
) -> Result<(), Error> {
    let mut batch = RouteBatch::new();
    batch.add_functional_block(name, mtu_bytes);
    batch.set_alias(name, &format!("{ALIAS}{uid}"));
    batch.send(rtnetlink.socket())?;
    let block = rtnetlink.index_of(name)?;
    // A filter that an attempt before left leads to an interface that is gone.
    let mut batch = RouteBatch::new();
    batch.delete_ingress(interface);
    for outcome in batch.send_each(rtnetlink.socket())? {
        match outcome {
            Err(error) if !error.is_not_found() && error.errno() != Some(libc::EINVAL) => return Err(error.into()),
            _ => {}
        }
    }
    let mut batch = RouteBatch::new();
    batch.set_token_bucket(block, bucket);
    batch.add_ingress(interface);
    batch.redirect_ingress(interface, block);
    batch.send(rtnetlink.socket())?;
    let mut batch = RouteBatch::new();
    batch.set_alias(name, &format!("{ALIAS}{uid}{WHOLE}"));
    Ok(batch.send(rtnetlink.socket())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_the_rate_within_what_the_kernel_counts() {
        let whole =
            |rate, burst, limit| TokenBucket { rate_bytes_per_second: rate, burst_bytes: burst, limit_bytes: limit };
        for (bits_per_second, mtu_bytes, wanted) in [
            (8_000_000, 1500, whole(1_000_000, 50_000, 100_000)),
            (1_000, 1500, whole(125, 15_140, 30_280)),
            (1_000_000, 9000, whole(125_000, 90_140, 180_280)),
            (1_000_000_000_000_000, 1500, whole(125_000_000_000_000, 256 << 20, 512 << 20)),
        ] {
            assert_eq!(bucket(bits_per_second, mtu_bytes), wanted, "{bits_per_second} bits per second");
        }
    }

    #[test]
    fn the_second_interface_has_a_name_of_its_own() {
        assert_eq!(block_name("u-1").len(), 15);
        assert!(!block_name("u-1").starts_with(POD_INTERFACE_PREFIX));
        assert_eq!(block_name("u-1")[3..], interface_name("u-1")[3..]);
    }
}
