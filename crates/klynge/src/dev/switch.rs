//! The nodes' network: a bridge where the command runs, a pair of interfaces for each node, the way out.

use super::arguments::Direction;
use super::plan;
use crate::cli::Failure;
use network::Prefix;
use network::netlink::{
    Batch, ChainSpec, Expressions, Family, Hook, LinkInfo, NetworkNamespace, Nft, NftBatch, Register, Route,
    RouteBatch, Rtnetlink, Verdict, VethPair,
};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

const SCRATCH: Register = Register::new(0);
/// Where nftables put the translation of sources by default.
const PRIORITY_SOURCE: i32 = 100;
const MTU_BYTES_DEFAULT: u32 = 1500;
/// Connections that exist, or belong to one.
const KNOWN_STATES: u8 = 2 | 4;
/// A machine has a handful of base chains; one with more is not searched further.
const CHAINS_MAX: usize = 256;
const EOPNOTSUPP: i32 = 95;
const FORWARDING: &str = "net/ipv4/ip_forward";
/// What a namespace has of it holds for connections that begin.
const CONGESTION_CONTROL: &str = "net/ipv4/tcp_congestion_control";
/// The interface inside a node.
pub(super) const INSIDE: &str = "eth0";

pub(super) fn failed(error: network::netlink::Error) -> Failure {
    Failure::Failed(error.to_string())
}

/// What was to be undone is not there, or this kernel could never have done it.
pub(super) fn is_nothing(error: &network::netlink::Error) -> bool {
    error.is_not_found() || error.errno() == Some(EOPNOTSUPP)
}

/// Gives a node's own connections a congestion control that takes links as they become. BBR, where the machine has it, takes the shortest round
/// trip of the last ten seconds for the link's: on a link that is made slow while connections stand that is one of microseconds, and they all
/// but stop. Pods keep the machine's.
fn settle_congestion_control(inside: &NetworkNamespace) {
    // Cubic is what most machines have; a namespace may only take what the machine allows programs to choose, and Reno always is.
    for name in ["cubic", "reno"] {
        match inside.write_sysctl(CONGESTION_CONTROL, name) {
            Ok(_) => return,
            Err(error) => tracing::debug!(%error, "a node's connections take another congestion control"),
        }
    }
}

/// A cluster's network.
pub(super) struct Switch<'a> {
    pub(super) name: &'a str,
    /// Where the cluster is: its bridge is known by it.
    pub(super) directory: &'a Path,
    /// The nodes' addresses, of one family or both.
    pub(super) subnets: Vec<Prefix>,
    pub(super) namespace: &'a NetworkNamespace,
}

/// What forwarding is now, where the switch is going to change it.
pub(super) fn former_forwarding(namespace: &NetworkNamespace) -> Result<Option<String>, Failure> {
    let read = namespace.run(|| std::fs::read_to_string(format!("/proc/sys/{FORWARDING}"))).map_err(failed)?;
    let text = read.map_err(|error| Failure::Failed(format!("cannot read the sysctl {FORWARDING}: {error}")))?;
    Ok(Some(text.trim().to_owned()).filter(|value| value != "1"))
}

/// What this machine and its routes already use.
pub(super) fn taken(namespace: &NetworkNamespace) -> Result<Vec<Prefix>, Failure> {
    let mut rtnetlink = Rtnetlink::open_in(namespace).map_err(failed)?;
    let mut taken: Vec<Prefix> = rtnetlink
        .addresses()
        .map_err(failed)?
        .into_iter()
        .map(|held| Prefix::new(held.address, held.prefix_length))
        .collect();
    let routes = rtnetlink.routes().map_err(failed)?;
    taken.extend(routes.into_iter().map(|route| route.destination).filter(|range| range.length() > 0));
    taken.extend(rtnetlink.unreachable_ranges().map_err(failed)?);
    Ok(taken)
}

impl Switch<'_> {
    fn rtnetlink(&self) -> Result<Rtnetlink, Failure> {
        Rtnetlink::open_in(self.namespace).map_err(failed)
    }

    fn bridge(&self, rtnetlink: &mut Rtnetlink) -> Result<Option<LinkInfo>, Failure> {
        let name = plan::bridge(self.name);
        let found = rtnetlink.links().map_err(failed)?.into_iter().find(|link| link.name == name);
        match found {
            Some(link) if link.alias != plan::alias(self.directory) && !link.alias.is_empty() => {
                Err(Failure::Failed(format!(
                    "there is an interface {name} that is not of this cluster ({}); choose another --name",
                    link.alias
                )))
            }
            other => Ok(other),
        }
    }

    /// Refuses names that something else has.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let mut rtnetlink = self.rtnetlink()?;
        self.bridge(&mut rtnetlink).map(drop)
    }

    /// Makes what is not there: bridge, address, forwarding, translation, admission.
    pub(super) fn ensure(&self) -> Result<(), Failure> {
        let mut rtnetlink = self.rtnetlink()?;
        let bridge = match self.bridge(&mut rtnetlink)? {
            Some(bridge) => bridge,
            None => {
                self.add_bridge(&mut rtnetlink)?;
                self.bridge(&mut rtnetlink)?
                    .ok_or_else(|| Failure::Failed("the bridge vanished; does another program manage it?".to_owned()))?
            }
        };
        let mut batch = RouteBatch::new();
        batch.set_alias(&bridge.name, &plan::alias(self.directory));
        for subnet in &self.subnets {
            batch.add_address(bridge.index, plan::address(subnet, 0), subnet.length());
        }
        batch.set_up(bridge.index);
        batch.send(rtnetlink.socket()).map_err(failed)?;
        self.namespace.write_sysctl(FORWARDING, "1").map_err(failed)?;
        let mut nft = Nft::open_in(self.namespace).map_err(failed)?;
        self.masquerade(&mut nft)?;
        self.admit(&mut nft)
    }

    /// A bridge with an address of its own: otherwise it takes the lowest of its ports', and changes it as they come and go.
    fn add_bridge(&self, rtnetlink: &mut Rtnetlink) -> Result<(), Failure> {
        const NEW_LINK: u16 = 16;
        const REQUEST_CREATE_EXCLUSIVE_ACK: u16 = 0x1 | 0x4 | 0x200 | 0x400;
        let name = plan::bridge(self.name);
        let mut batch = Batch::new();
        batch.begin(NEW_LINK, REQUEST_CREATE_EXCLUSIVE_ACK, format!("create bridge {name}"));
        batch.raw(&[0; 16]);
        batch.attribute_str(3, &name);
        batch.attribute(1, &plan::link_address(self.name, 0, false));
        batch.nested(18, |batch| batch.attribute_str(1, "bridge"));
        batch.end();
        rtnetlink.socket().request_all(&batch).map_err(failed)
    }

    fn has(&self, family: Family) -> bool {
        self.subnets.iter().any(|subnet| Family::of(subnet.network()) == family)
    }

    /// What leaves for anywhere but the nodes carries this machine's address. (With IPv6 nothing leaves: a machine that forwards it no longer
    /// learns its own way out from routers.)
    fn masquerade(&self, nft: &mut Nft) -> Result<(), Failure> {
        let table = plan::table(self.name);
        let mut batch = NftBatch::new();
        batch.delete_table_if_exists(Family::Ip, &table);
        batch.add_table(Family::Ip, &table);
        let base = Some((Hook::Postrouting, "nat", PRIORITY_SOURCE));
        batch.add_chain(Family::Ip, &table, &ChainSpec { name: "postrouting", base });
        let multicast = Prefix::new(IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), 4);
        for subnet in self.subnets.iter().filter(|subnet| subnet.network().is_ipv4()) {
            let rule = Expressions::new()
                .match_source_prefix(subnet, false, SCRATCH)
                .match_destination_prefix(subnet, true, SCRATCH)
                .match_destination_prefix(&multicast, true, SCRATCH)
                .masquerade();
            batch.add_rule(Family::Ip, &table, "postrouting", &rule);
        }
        batch.commit(nft.socket()).map_err(failed)
    }

    fn comment(&self) -> String {
        plan::comment(self.name)
    }

    /// Firewalls of this machine let the nodes' packets through: Docker's and ufw's FORWARD drops them, also those between two ports of a
    /// bridge once br_netfilter is loaded.
    fn admit(&self, nft: &mut Nft) -> Result<(), Failure> {
        self.withdraw(nft)?;
        let bridge = plan::bridge(self.name);
        let mut chains = nft.chains().map_err(failed)?;
        chains.truncate(CHAINS_MAX);
        for chain in chains.iter().filter(|chain| {
            (chain.family != Family::Ip6 || self.has(Family::Ip6)) && !chain.table.starts_with("klynge-")
        }) {
            let is_filter = matches!(chain.name.as_str(), "FORWARD" | "INPUT" | "filter_FORWARD" | "filter_INPUT")
                && matches!(chain.table.as_str(), "filter" | "firewalld");
            if !chain.policy_drops && !is_filter {
                continue;
            }
            let from = || Expressions::new().match_input_interface(&bridge, false, SCRATCH);
            let known = |rule: Expressions| {
                if chain.is_of_iptables() {
                    rule.match_connection_state_of_iptables(KNOWN_STATES)
                } else {
                    rule.match_connection_state(u32::from(KNOWN_STATES), SCRATCH)
                }
            };
            let rules = if chain.hook == Some(Hook::Forward as u32) {
                vec![from(), known(Expressions::new().match_output_interface(&bridge, false, SCRATCH))]
            } else if chain.hook == Some(Hook::Input as u32) {
                let resolver = |protocol| from().match_protocol(protocol, SCRATCH).match_destination_port(53, SCRATCH);
                vec![known(from()), resolver(17), resolver(6)]
            } else {
                continue;
            };
            let mut batch = NftBatch::new();
            for rule in rules {
                let rule = rule.verdict(Verdict::Accept);
                batch.insert_rule(chain.family, &chain.table, &chain.name, &rule, &self.comment());
            }
            if let Err(error) = batch.commit(nft.socket()) {
                // The table belongs to a program that lets nobody change it, or has just gone.
                tracing::warn!(table = chain.table, chain = chain.name, %error, "this firewall may drop the nodes' packets");
            }
        }
        Ok(())
    }

    fn withdraw(&self, nft: &mut Nft) -> Result<(), Failure> {
        for chain in nft.chains().map_err(failed)?.iter().filter(|chain| !chain.table.starts_with("klynge-")) {
            let Ok(rules) = nft.rules(chain.family, &chain.table, &chain.name) else { continue };
            let mut batch = NftBatch::new();
            for rule in rules.iter().filter(|rule| rule.comment == self.comment()) {
                batch.delete_rule(chain.family, &chain.table, &chain.name, rule.handle);
            }
            match batch.commit(nft.socket()) {
                Err(error) if !error.is_not_found() => return Err(failed(error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Joins a node to the bridge: the pair, the node's address and its way out.
    pub(super) fn connect(&self, number: u16, init: i32) -> Result<(), Failure> {
        let inside = NetworkNamespace::of_process(init.unsigned_abs()).map_err(failed)?;
        let mut rtnetlink = self.rtnetlink()?;
        let bridge = self.bridge(&mut rtnetlink)?.ok_or_else(|| {
            Failure::Failed(format!(
                "the bridge {} is gone; remove the cluster with `klynge dev down`",
                plan::bridge(self.name)
            ))
        })?;
        self.disconnect_in(&mut rtnetlink, number)?;
        let port = plan::port(self.name, number);
        let mut batch = RouteBatch::new();
        batch.add_veth(&VethPair {
            name: &port,
            address: plan::link_address(self.name, number, false),
            peer_name: INSIDE,
            peer_address: plan::link_address(self.name, number, true),
            peer_namespace: Some(&inside),
            mtu_bytes: mtu(&mut rtnetlink)?,
        });
        batch.send(rtnetlink.socket()).map_err(failed)?;
        let mut batch = RouteBatch::new();
        batch.set_master(rtnetlink.index_of(&port).map_err(failed)?, bridge.index);
        batch.send(rtnetlink.socket()).map_err(failed)?;
        settle_congestion_control(&inside);
        let mut node = Rtnetlink::open_in(&inside).map_err(failed)?;
        let (loopback, interface) = (node.index_of("lo").map_err(failed)?, node.index_of(INSIDE).map_err(failed)?);
        let mut batch = RouteBatch::new();
        batch.set_up(loopback);
        for subnet in &self.subnets {
            batch.add_address(interface, plan::address(subnet, number), subnet.length());
        }
        batch.set_up(interface);
        for subnet in self.subnets.iter().filter(|subnet| subnet.network().is_ipv4()) {
            batch.add_route(&Route {
                destination: Prefix::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
                gateway: Some(plan::address(subnet, 0)),
                interface: Some(interface),
                source: None,
                on_link: false,
            });
        }
        batch.send(node.socket()).map_err(failed)
    }

    /// Whether a node has a link.
    pub(super) fn is_connected(&self, number: u16) -> Result<bool, Failure> {
        let port = plan::port(self.name, number);
        Ok(self.rtnetlink()?.links().map_err(failed)?.iter().any(|link| link.name == port))
    }

    /// Loses a node's packets at its port of the bridge: whole frames, silently, with the link up.
    pub(super) fn cut(&self, number: u16, direction: Direction) -> Result<(), Failure> {
        let mut nft = Nft::open_in(self.namespace).map_err(failed)?;
        let (table, port) = (plan::table(self.name), plan::port(self.name, number));
        let mut batch = NftBatch::new();
        for (chain, sends, _) in chains(number).into_iter().filter(|(_, _, meant)| meant.contains(&direction)) {
            batch.add_device_drop(&table, &chain, &port, sends);
        }
        batch.commit(nft.socket()).map_err(|error| {
            Failure::Failed(format!(
                "{error}; it takes a kernel with nftables' netdev family and, for what is sent to the node, its egress hook (5.16)"
            ))
        })
    }

    /// Undoes [`Self::cut`]; no error where there is nothing to undo.
    pub(super) fn heal(&self, number: u16) -> Result<(), Failure> {
        let mut nft = Nft::open_in(self.namespace).map_err(failed)?;
        for (chain, ..) in chains(number) {
            let mut batch = NftBatch::new();
            batch.delete_device_chain(&plan::table(self.name), &chain);
            match batch.commit(nft.socket()) {
                Err(error) if !is_nothing(&error) => return Err(failed(error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes a node's link down and away; no error where there is none.
    pub(super) fn disconnect(&self, number: u16) -> Result<(), Failure> {
        let mut rtnetlink = self.rtnetlink()?;
        self.disconnect_in(&mut rtnetlink, number)
    }

    fn disconnect_in(&self, rtnetlink: &mut Rtnetlink, number: u16) -> Result<(), Failure> {
        delete_link(rtnetlink, &plan::port(self.name, number))
    }

    /// Removes all of it; `former` is what forwarding was before.
    pub(super) fn remove(&self, nodes: u16, former: Option<&str>) -> Result<(), Failure> {
        let mut rtnetlink = self.rtnetlink()?;
        let Ok(bridge) = self.bridge(&mut rtnetlink) else {
            return Ok(()); // another cluster has these names here, so nothing of this one does
        };
        for number in 1..=nodes {
            self.disconnect_in(&mut rtnetlink, number)?;
        }
        if let Some(bridge) = bridge {
            delete_link(&mut rtnetlink, &bridge.name)?;
        }
        let mut nft = Nft::open_in(self.namespace).map_err(failed)?;
        self.withdraw(&mut nft)?;
        let table = plan::table(self.name);
        let mut batch = NftBatch::new();
        batch.delete_table_if_exists(Family::Ip, &table);
        batch.commit(nft.socket()).map_err(failed)?;
        let mut batch = NftBatch::new();
        batch.delete_device_table(&table);
        match batch.commit(nft.socket()) {
            Err(error) if !is_nothing(&error) => return Err(failed(error)),
            _ => {}
        }
        // Whoever has chains here may count on forwarding by now: Docker sets it only where it is off.
        if let Some(former) = former
            && nft.chains().map_err(failed)?.is_empty()
        {
            self.namespace.write_sysctl(FORWARDING, former).map_err(failed)?;
        }
        Ok(())
    }
}

/// The chains of a node: name, whether they see what the node sends, and which cuts mean them.
fn chains(number: u16) -> [(String, bool, [Direction; 2]); 2] {
    [
        (format!("from-{number}"), true, [Direction::Both, Direction::From]),
        (format!("to-{number}"), false, [Direction::Both, Direction::To]),
    ]
}

fn delete_link(rtnetlink: &mut Rtnetlink, name: &str) -> Result<(), Failure> {
    let mut batch = RouteBatch::new();
    batch.delete_link(name);
    match batch.send(rtnetlink.socket()) {
        Err(error) if !error.is_not_found() => Err(failed(error)),
        _ => Ok(()),
    }
}

/// The largest packet that also leaves the machine whole.
fn mtu(rtnetlink: &mut Rtnetlink) -> Result<u32, Failure> {
    let Some(interface) = rtnetlink.default_route(false).map_err(failed)?.and_then(|route| route.interface) else {
        return Ok(MTU_BYTES_DEFAULT);
    };
    let links = rtnetlink.links().map_err(failed)?;
    Ok(links
        .into_iter()
        .find(|link| link.index == interface)
        .map_or(MTU_BYTES_DEFAULT, |link| link.mtu_bytes.clamp(576, 9000)))
}
