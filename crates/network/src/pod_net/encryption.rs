//! Packets between nodes encrypted with WireGuard, the kernel's or the one in user space: this node's key, its interface, and the rule
//! that nothing of the cluster comes in plain.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use super::attach::PodNetwork;
use super::error::Error;
use super::host_setup;
use super::peers::{HostView, Key, Value};
use super::vxlan;
use crate::netlink::{
    self, ChainSpec, Expressions, Family, Hook, LinkInfo, NftBatch, PublicKey, Register, RouteBatch, Verdict,
    Wireguard, WireguardChange, WireguardInfo, WireguardPeer, lacks_wireguard,
};
use crate::{POD_INTERFACE_PREFIX, Prefix, wireguard};

/// The interface. It begins as the tunnels do, so that the same rules hold for what goes through it.
pub const INTERFACE: &str = "klynge-wg";
/// An interface that is made and removed to see whether the kernel has WireGuard.
const PROBE: &str = "klynge-wg-probe";
/// Its UDP port: the one after the tunnel's.
pub const ENCRYPTION_PORT: u16 = 8478;
/// The table that drops what comes in plain.
pub const ENCRYPTION_TABLE: &str = "klynge-encrypted";
/// The outer headers of IPv6, UDP, WireGuard's own header and its tag: nodes may reach each other by either family.
pub(super) const OVERHEAD_BYTES: u32 = 40 + 8 + 16 + 16;
/// Before connections are looked at, so that what is dropped leaves no trace.
const PRIORITY: i32 = -300;
const SCRATCH: Register = Register::new(0);
const KEY_FILE_HEAD: &str = "klynge-wireguard-key/1";

/// A node's private key. It never leaves the node.
#[derive(Clone)]
pub struct PrivateKey([u8; 32]);

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("PrivateKey(..)")
    }
}

impl PrivateKey {
    /// The key of this file, readable by its owner only; a new one where there is no file.
    pub fn load_or_make(path: &Path) -> Result<Self, Error> {
        let failed = |why: String| Error::EncryptionKey { path: path.to_owned(), why };
        if path.exists() {
            return Self::load(path);
        }
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|error| failed(error.to_string()))?;
        let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let write = || -> std::io::Result<()> {
            if let Some(directory) = path.parent() {
                std::fs::create_dir_all(directory)?;
            }
            let beside = path.with_extension("new");
            let _ = std::fs::remove_file(&beside); // of an attempt that was broken off
            let mut file = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&beside)?;
            std::io::Write::write_all(&mut file, format!("{KEY_FILE_HEAD}\n{digits}\n").as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&beside, path)
        };
        write().map_err(|error| failed(error.to_string()))?;
        Ok(Self(key))
    }

    /// The key of this file.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string());
        let failed = |why: String| Error::EncryptionKey { path: path.to_owned(), why };
        text.and_then(|text| Self::parse(&text)).map_err(failed)
    }

    /// Its public half.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey(boringtun::x25519::PublicKey::from(&boringtun::x25519::StaticSecret::from(self.0)).to_bytes())
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines();
        if lines.next() != Some(KEY_FILE_HEAD) {
            return Err(
                "it is of another version: start the Klynge that wrote it, or remove it to get a new key".to_owned()
            );
        }
        let digits = lines.next().unwrap_or_default();
        let wrong = || "it holds no key; remove it to get a new one".to_owned();
        if digits.len() != 64 || !digits.is_ascii() {
            return Err(wrong());
        }
        let mut key = [0; 32];
        for (index, byte) in key.iter_mut().enumerate() {
            let pair = digits.get(index * 2..index * 2 + 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
        }
        Ok(Self(key))
    }
}

/// Who encrypts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncryptionForm {
    /// The kernel's WireGuard.
    Kernel,
    /// A process of ours on a TUN device.
    UserSpace,
}

impl EncryptionForm {
    /// As a word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::UserSpace => "user-space",
        }
    }

    /// The kind of its interface.
    fn link_kind(self) -> &'static str {
        match self {
            Self::Kernel => "wireguard",
            Self::UserSpace => "tun",
        }
    }
}

/// Who encrypts, with what that takes.
#[derive(Clone)]
enum Engine {
    Kernel(PrivateKey),
    UserSpace(Arc<wireguard::Handle>),
}

impl Engine {
    fn form(&self) -> EncryptionForm {
        match self {
            Self::Kernel(_) => EncryptionForm::Kernel,
            Self::UserSpace(_) => EncryptionForm::UserSpace,
        }
    }
}

/// This node's encryption.
pub(super) struct Encryption {
    engine: Engine,
    pub(super) public_key: PublicKey,
}

impl PodNetwork {
    /// Who can encrypt on this host: the kernel where it has WireGuard, else a process of ours where there are TUN devices.
    ///
    /// # Errors
    /// Neither can.
    pub fn encryption_form(&mut self) -> Result<EncryptionForm, Error> {
        let links = self.rtnetlink.links()?;
        if links.iter().any(|link| link.name == INTERFACE && link.kind == EncryptionForm::Kernel.link_kind()) {
            return Ok(EncryptionForm::Kernel);
        }
        if links.iter().any(|link| link.name == PROBE) {
            self.delete_interface(PROBE)?;
        }
        let mut batch = RouteBatch::new();
        batch.add_wireguard(PROBE, self.mtu_bytes);
        let Err(kernel) = batch.send(self.rtnetlink.socket()) else {
            self.delete_interface(PROBE)?;
            return Ok(EncryptionForm::Kernel);
        };
        if !lacks_wireguard(&kernel) {
            return Err(kernel.into());
        }
        match wireguard::can_make() {
            Ok(()) => Ok(EncryptionForm::UserSpace),
            Err(user_space) => Err(Error::NoWireguard { kernel: kernel.to_string(), user_space }),
        }
    }

    /// Encrypts all that goes to and comes from other nodes' pods by the kernel's WireGuard from the next change of peers on, and drops at
    /// once what comes in plain. Returns the key to tell the other nodes. A process in user space must have ended.
    pub fn encrypt(&mut self, private_key: PrivateKey) -> Result<PublicKey, Error> {
        let public_key = private_key.public_key();
        self.encrypt_with(Engine::Kernel(private_key), public_key)
    }

    /// The same by a process in user space, which looks after its device as long as it lives.
    pub fn encrypt_in_user_space(&mut self, tunnel: Arc<wireguard::Handle>) -> Result<PublicKey, Error> {
        let public_key = tunnel.public_key();
        self.encrypt_with(Engine::UserSpace(tunnel), public_key)
    }

    fn encrypt_with(&mut self, engine: Engine, public_key: PublicKey) -> Result<PublicKey, Error> {
        let links = self.rtnetlink.links()?;
        // What an earlier agent found out holds until the peers are known; pods that come first have to fit in as well.
        let found = links.iter().find(|link| link.name == INTERFACE && link.is_up).map(|link| link.mtu_bytes);
        let mtu_bytes = found.unwrap_or_else(|| self.mtu_bytes.saturating_sub(OVERHEAD_BYTES));
        self.make_secured(&links, &engine, mtu_bytes)?;
        self.mtu_bytes = host_setup::pods_mtu(&self.options, self.mtu_bytes.min(mtu_bytes));
        let mut batch = NftBatch::new();
        add_filter(&mut batch, &self.options.cluster_ranges);
        batch.commit(self.nft.socket())?;
        self.peers.encryption = Some(Encryption { engine, public_key });
        Ok(public_key)
    }

    /// Makes the interface where it is not there, and gives it its key. Its number, and whether it holds no routes.
    fn make_secured(&mut self, links: &[LinkInfo], engine: &Engine, mtu_bytes: u32) -> Result<(u32, bool), Error> {
        let mut found = links.iter().find(|link| link.name == INTERFACE);
        let kind = engine.form().link_kind();
        if found.is_some_and(|link| link.kind != kind) && is_there(links) {
            // Of a start when the kernel was another.
            self.delete_interface(INTERFACE)?;
            found = None;
        }
        if found.is_some_and(|link| link.kind != kind) {
            return Err(Error::EncryptionNameTaken { interface: INTERFACE.to_owned() });
        }
        match engine {
            Engine::Kernel(key) => {
                if found.is_none() {
                    let mut batch = RouteBatch::new();
                    batch.add_wireguard(INTERFACE, mtu_bytes);
                    batch.send(self.rtnetlink.socket())?;
                }
                Wireguard::open_in(&self.options.namespace)?.set_identity(INTERFACE, key.bytes(), ENCRYPTION_PORT)?;
            }
            Engine::UserSpace(tunnel) if found.is_none() => tunnel.attach_again()?,
            Engine::UserSpace(_) => {}
        }
        let index = self.rtnetlink.index_of(INTERFACE)?;
        let mut batch = RouteBatch::new();
        if found.is_none_or(|link| link.mtu_bytes != mtu_bytes) {
            batch.set_mtu(index, mtu_bytes);
        }
        let was_up = found.is_some_and(|link| link.is_up);
        if !was_up {
            batch.set_up(index);
        }
        batch.send(self.rtnetlink.socket())?;
        Ok((index, !was_up))
    }

    /// Keeps the interface as it is to be: its number, its MTU, and whether what the kernel holds must be read anew.
    pub(super) fn ensure_secured(&mut self, links: &[LinkInfo], is_known: bool) -> Result<(u32, u32, bool), Error> {
        let Some(engine) = self.peers.encryption.as_ref().map(|encryption| encryption.engine.clone()) else {
            return Err(Error::NoKey);
        };
        let host = self.peers.table.host();
        let mtu_bytes = mtu_bytes(host, self.peers.mtu_bytes_default);
        let families = [true, false].into_iter().filter(|is_ipv4| vxlan::carries(mtu_bytes, *is_ipv4));
        let addresses: Vec<IpAddr> = families.filter_map(|is_ipv4| host.tunnel_address(is_ipv4)).collect();
        let kind = engine.form().link_kind();
        let is_whole = links
            .iter()
            .any(|link| link.name == INTERFACE && link.kind == kind && link.is_up && link.mtu_bytes == mtu_bytes);
        if is_known && is_whole {
            return Ok((self.rtnetlink.index_of(INTERFACE)?, mtu_bytes, false));
        }
        let (index, is_new) = self.make_secured(links, &engine, mtu_bytes)?;
        let mut batch = RouteBatch::new();
        for address in addresses {
            batch.add_address(index, address, if address.is_ipv4() { 32 } else { 128 });
        }
        batch.send(self.rtnetlink.socket())?;
        let mut batch = NftBatch::new();
        add_filter(&mut batch, &self.options.cluster_ranges);
        batch.commit(self.nft.socket())?;
        Ok((index, mtu_bytes, is_new))
    }

    /// What the kernel, or the process in user space, has of the interface's peers; nothing where it is not there.
    pub(super) fn read_secured(&mut self, is_there: bool) -> Result<WireguardInfo, netlink::Error> {
        match self.peers.encryption.as_ref().map(|encryption| &encryption.engine) {
            Some(Engine::UserSpace(tunnel)) => Ok(tunnel.device()),
            Some(Engine::Kernel(_)) if is_there => Wireguard::open_in(&self.options.namespace)?.device(INTERFACE),
            // What is left of a former start goes with its interface.
            _ => Ok(WireguardInfo::default()),
        }
    }

    /// All peers are known.
    pub(super) fn complete_secured(&self) {
        if let Some(Engine::UserSpace(tunnel)) = self.peers.encryption.as_ref().map(|encryption| &encryption.engine) {
            tunnel.complete();
        }
    }

    /// Brings the peers of the interface to what is wanted, as far as these changes touch them. Before routes lead there, so that
    /// nothing is lost.
    pub(super) fn change_secured(
        &mut self,
        wanted: &[(Key, Value)],
        unwanted: &[(Key, Value)],
    ) -> Result<(), netlink::Error> {
        let kernel = &self.peers.kernel;
        let mut touched = BTreeSet::new();
        for (key, value) in wanted.iter().chain(unwanted) {
            // The node that a range had before loses it as well.
            for value in [Some(value), kernel.get(key)].into_iter().flatten() {
                match (key, value) {
                    (Key::Secured(of), _) | (_, Value::Encrypted { key: of, .. }) => drop(touched.insert(*of)),
                    _ => {}
                }
            }
        }
        touched.remove(&NO_KEY);
        if touched.is_empty() {
            return Ok(());
        }
        let mut secured = self.peers.table.secured(&touched);
        // Who goes, goes first: a range can be one node's only.
        let gone = touched.iter().filter(|key| !secured.contains_key(key)).map(|key| WireguardChange::Remove(*key));
        let mut changes: Vec<WireguardChange> = gone.collect();
        for key in touched {
            let Some(wanted) = secured.remove(&key) else { continue };
            // An endpoint that was told before stays as the kernel has it: it follows a node whose packets come from elsewhere.
            let endpoint = wanted
                .destination
                .filter(|address| self.peers.kernel.get(&Key::Secured(key)) != Some(&Value::Destination(*address)));
            let endpoint = endpoint.map(|address| SocketAddr::new(address, ENCRYPTION_PORT));
            changes.push(WireguardChange::Set(WireguardPeer { key, endpoint, allowed: wanted.ranges }));
        }
        match self.peers.encryption.as_ref().map(|encryption| &encryption.engine) {
            Some(Engine::Kernel(_)) => Wireguard::open_in(&self.options.namespace)?.change_peers(INTERFACE, &changes),
            Some(Engine::UserSpace(tunnel)) => {
                tunnel.change_peers(&changes);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Removes the interface and the rule of a node that encrypts no longer.
    pub(super) fn remove_unused_encryption(&mut self, links: &[LinkInfo]) -> Result<(), Error> {
        if self.peers.encryption.is_some() || !is_there(links) {
            return Ok(());
        }
        let mut batch = NftBatch::new();
        for family in [Family::Ip, Family::Ip6] {
            batch.delete_table_if_exists(family, ENCRYPTION_TABLE);
        }
        batch.commit(self.nft.socket())?;
        self.delete_interface(INTERFACE)
    }
}

/// Stands for the key of a range that leads to nobody.
pub(super) const NO_KEY: PublicKey = PublicKey([0; 32]);

/// Whether the interface is there.
pub(super) fn is_there(links: &[LinkInfo]) -> bool {
    let is_ours =
        |kind: &str| [EncryptionForm::Kernel, EncryptionForm::UserSpace].iter().any(|form| form.link_kind() == kind);
    links.iter().any(|link| link.name == INTERFACE && is_ours(&link.kind))
}

fn mtu_bytes(host: &HostView, mtu_bytes_default: u32) -> u32 {
    let underlays = host.node_addresses.iter().filter_map(|address| host.mtu_of(*address));
    underlays.min().unwrap_or(mtu_bytes_default).saturating_sub(OVERHEAD_BYTES)
}

/// Packets from addresses of the cluster come from this node's pods, or out of the encryption: others are somebody's who pretends.
fn add_filter(batch: &mut NftBatch, cluster_ranges: &[Prefix]) {
    for family in [Family::Ip, Family::Ip6] {
        let ranges = || cluster_ranges.iter().filter(|range| range.family() == family);
        batch.delete_table_if_exists(family, ENCRYPTION_TABLE);
        if ranges().next().is_none() {
            continue;
        }
        batch.add_table(family, ENCRYPTION_TABLE);
        let base = Some((Hook::Prerouting, "filter", PRIORITY));
        batch.add_chain(family, ENCRYPTION_TABLE, &ChainSpec { name: "prerouting", base });
        let mut rule = |rule: Expressions| batch.add_rule(family, ENCRYPTION_TABLE, "prerouting", &rule);
        for (interface, is_prefix) in [(POD_INTERFACE_PREFIX, true), ("lo", false)] {
            let own = Expressions::new().match_input_interface(interface, is_prefix, SCRATCH);
            rule(own.verdict(Verdict::Accept));
        }
        for range in ranges() {
            rule(Expressions::new().match_source_prefix(range, false, SCRATCH).verdict(Verdict::Drop));
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_is_made_once_and_kept_secret() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("network/wireguard.key");
        let made = PrivateKey::load_or_make(&path).unwrap();
        assert_ne!(made.0, [0; 32]);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(PrivateKey::load_or_make(&path).unwrap().0, made.0);
        assert_eq!(format!("{made:?}"), "PrivateKey(..)");
        for text in ["", "klynge-wireguard-key/2\n00\n", "klynge-wireguard-key/1\nzz\n", "klynge-wireguard-key/1\n"] {
            std::fs::write(&path, text).unwrap();
            assert!(PrivateKey::load_or_make(&path).is_err(), "{text:?}");
        }
    }
}
