//! Lives beside the host's own firewalls: Docker's FORWARD policy DROP, ufw, firewalld.
//!
//! An accept in our table cannot undo another table's drop, so an accept rule goes to the head of each foreign base chain in which
//! packets of pods could be dropped. The rules carry a comment, are looked for again periodically (firewalld and Docker rewrite their tables),
//! and are withdrawn at purge. Tables of iptables-legacy are not reachable over nfnetlink; hosts with those keep theirs.

use super::encryption::{ENCRYPTION_PORT, ENCRYPTION_TABLE};
use super::vxlan::{TUNNEL_PORT, TUNNEL_TABLE};
use crate::netlink::{ChainInfo, Expressions, Family, Hook, Nft, NftBatch, Register, Result, Verdict};
use crate::services::TransportProtocol;
use crate::{POD_INTERFACE_PREFIX, Prefix};

const COMMENT: &str = "klynge: pods";
/// A host has a handful of base chains; one with more is not searched further.
const CHAINS_MAX: usize = 256;
const SCRATCH: Register = Register::new(0);
/// Established and related.
const KNOWN_STATES: u8 = 2 | 4;

/// A port of the host that pods may reach whatever the host's firewall says of its input: cluster DNS, the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenPort {
    /// The protocol.
    pub protocol: TransportProtocol,
    /// The port.
    pub port: u16,
}

/// What was found and done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FirewallReport {
    /// Chains that got accept rules now, as "family table chain".
    pub admitted: Vec<String>,
    /// Chains that refuse changes because a program owns their table; the user must admit the pod range there.
    pub refused: Vec<String>,
}

/// What the host's firewalls are to let through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// Ports of the host that pods may reach.
    pub open_ports: Vec<OpenPort>,
    /// The ranges of all pods of the cluster: a node port's client is passed on to a pod of another node, between interfaces of which none
    /// is a pod's.
    pub cluster_ranges: Vec<Prefix>,
}

/// [`admit`] for a node that passes nothing on to other nodes.
pub fn admit_pods(nft: &mut Nft, open_ports: &[OpenPort]) -> Result<FirewallReport> {
    admit(nft, &Admission { open_ports: open_ports.to_vec(), cluster_ranges: Vec::new() })
}

/// Makes sure that the host's firewalls let pods' packets through, and the tunnel's where there is one (it has a list of senders of its own).
/// Idempotent: call it at start and every few seconds.
pub fn admit(nft: &mut Nft, admission: &Admission) -> Result<FirewallReport> {
    let mut report = FirewallReport::default();
    let tables = nft.tables()?;
    let port = |name: &str| match name {
        TUNNEL_TABLE => Some(TUNNEL_PORT),
        ENCRYPTION_TABLE => Some(ENCRYPTION_PORT),
        _ => None,
    };
    let tunnels: Vec<(Family, u16)> =
        tables.iter().filter_map(|table| Some((table.family, port(&table.name)?))).collect();
    let owned: Vec<_> = tables.into_iter().filter(|table| table.is_owned).collect();
    for chain in foreign_chains(nft)? {
        let name = format!("{:?} {} {}", chain.family, chain.table, chain.name).to_lowercase();
        let wanted = wanted_rules(&chain, admission, &tunnels, chain.is_of_iptables());
        let present = nft
            .rules(chain.family, &chain.table, &chain.name)?
            .iter()
            .take_while(|rule| rule.comment == COMMENT)
            .count();
        if wanted.is_empty() || present == wanted.len() {
            continue;
        }
        if owned.iter().any(|table| table.family == chain.family && table.name == chain.table) {
            report.refused.push(name);
            continue;
        }
        let mut outcome = insert(nft, &chain, &wanted);
        if chain.is_of_iptables() && outcome.as_ref().is_err_and(|error| error.errno() != Some(libc::EPERM)) {
            // A kernel without the extension: then iptables cannot use it either.
            outcome = insert(nft, &chain, &wanted_rules(&chain, admission, &tunnels, false));
        }
        match outcome {
            Ok(()) => report.admitted.push(name),
            // The chain went away or its owner changed meanwhile; the next round sees the new state.
            Err(error) if error.is_not_found() => {}
            Err(error) if error.errno() == Some(libc::EPERM) => report.refused.push(name),
            Err(error) => return Err(error),
        }
    }
    Ok(report)
}

/// Puts rules at a chain's head in place of those that we had there.
fn insert(nft: &mut Nft, chain: &ChainInfo, wanted: &[Expressions]) -> Result<()> {
    let mut batch = NftBatch::new();
    delete_ours(nft, chain, &mut batch)?;
    for rule in wanted.iter().rev() {
        batch.insert_rule(chain.family, &chain.table, &chain.name, rule, COMMENT);
    }
    batch.commit(nft.socket())
}

/// Withdraws the accept rules.
pub fn withdraw_admission(nft: &mut Nft) -> Result<()> {
    for chain in foreign_chains(nft)? {
        let mut batch = NftBatch::new();
        delete_ours(nft, &chain, &mut batch)?;
        batch.commit(nft.socket())?;
    }
    Ok(())
}

/// Base chains of others that filter forwarded or incoming packets.
fn foreign_chains(nft: &mut Nft) -> Result<Vec<ChainInfo>> {
    let mut chains = nft.chains()?;
    let hooks = [Hook::Forward as u32, Hook::Input as u32];
    chains.retain(|chain| !chain.table.starts_with("klynge-") && chain.hook.is_some_and(|hook| hooks.contains(&hook)));
    chains.truncate(CHAINS_MAX);
    Ok(chains)
}

/// Whether packets may be dropped there: by policy, or, in firewalld's and iptables' own filter chains, by a rule at the end.
fn may_drop(chain: &ChainInfo) -> bool {
    let is_filter = matches!(chain.name.as_str(), "FORWARD" | "INPUT" | "filter_FORWARD" | "filter_INPUT")
        && matches!(chain.table.as_str(), "filter" | "firewalld");
    chain.policy_drops || is_filter
}

fn wanted_rules(
    chain: &ChainInfo,
    admission: &Admission,
    tunnels: &[(Family, u16)],
    for_iptables: bool,
) -> Vec<Expressions> {
    if !may_drop(chain) {
        return Vec::new();
    }
    let accept = |rule: Expressions| rule.verdict(Verdict::Accept);
    let from_pods = || Expressions::new().match_input_interface(POD_INTERFACE_PREFIX, true, SCRATCH);
    if chain.hook == Some(Hook::Forward as u32) {
        let mut rules = vec![
            accept(from_pods()),
            accept(Expressions::new().match_output_interface(POD_INTERFACE_PREFIX, true, SCRATCH)),
        ];
        for range in admission.cluster_ranges.iter().filter(|range| sees(chain, range.family())) {
            let of_family = || of_family(chain, range.family());
            rules.push(accept(of_family().match_source_prefix(range, false, SCRATCH)));
            rules.push(accept(of_family().match_destination_prefix(range, false, SCRATCH)));
        }
        return rules;
    }
    // Only what the cluster needs: the user's decision about other ports of the host stands.
    let mut rules: Vec<Expressions> = admission
        .open_ports
        .iter()
        .map(|open| {
            accept(
                from_pods().match_protocol(open.protocol.number(), SCRATCH).match_destination_port(open.port, SCRATCH),
            )
        })
        .collect();
    for (family, port) in tunnels.iter().filter(|(family, _)| sees(chain, *family)) {
        let of_tunnel = of_family(chain, *family).match_protocol(17, SCRATCH);
        rules.push(accept(of_tunnel.match_destination_port(*port, SCRATCH)));
    }
    // Answers of pods to the host's own connections, such as probes.
    let answers = if for_iptables {
        from_pods().match_connection_state_of_iptables(KNOWN_STATES)
    } else {
        from_pods().match_connection_state(u32::from(KNOWN_STATES), SCRATCH)
    };
    rules.push(accept(answers));
    rules
}

/// Begins a rule for packets of a family. Only a chain that sees both needs to ask: iptables cannot read that question, and would then
/// refuse to show the whole table.
fn of_family(chain: &ChainInfo, family: Family) -> Expressions {
    let rule = Expressions::new();
    if chain.family == Family::Inet { rule.match_family(family, SCRATCH) } else { rule }
}

/// Whether packets of a family pass a chain.
fn sees(chain: &ChainInfo, family: Family) -> bool {
    chain.family == family || chain.family == Family::Inet
}

fn delete_ours(nft: &mut Nft, chain: &ChainInfo, batch: &mut NftBatch) -> Result<()> {
    let rules = match nft.rules(chain.family, &chain.table, &chain.name) {
        Err(error) if error.is_not_found() => return Ok(()),
        other => other?,
    };
    for rule in rules.iter().filter(|rule| rule.comment == COMMENT) {
        batch.delete_rule(chain.family, &chain.table, &chain.name, rule.handle);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_chains_that_may_drop_are_touched() {
        let chain = |table: &str, name: &str, policy_drops| ChainInfo {
            family: Family::Ip,
            table: table.to_owned(),
            name: name.to_owned(),
            hook: Some(Hook::Forward as u32),
            priority: 0,
            policy_drops,
        };
        let admission = Admission::default();
        assert_eq!(wanted_rules(&chain("filter", "FORWARD", true), &admission, &[], false).len(), 2);
        assert_eq!(wanted_rules(&chain("firewalld", "filter_FORWARD", false), &admission, &[], false).len(), 2);
        assert_eq!(wanted_rules(&chain("mine", "count", false), &admission, &[], false).len(), 0);
    }
}
