//! Ends connections that stand although the rules no longer allow them: conntrack forgets them, and their next packet is judged anew.

use std::collections::HashSet;
use std::net::IpAddr;

use super::judge::{Connection, allows};
use super::layout::{Direction, Layout};
use super::selections::Selections;
use crate::netlink::{Conntrack, Family, Flow, NetworkNamespace, Result, Rtnetlink};

/// TCP and UDP; of other protocols each packet is judged.
const PROTOCOLS: [u8; 2] = [6, 17];

/// Forgets what is not allowed; returns how many connections that were.
pub(crate) fn revoke(
    namespace: &NetworkNamespace,
    conntrack: &mut Conntrack,
    families: &[Family],
    layout: &Layout,
    selections: &Selections,
) -> Result<usize> {
    let own: HashSet<IpAddr> = Rtnetlink::open_in(namespace)?.addresses()?.into_iter().map(|one| one.address).collect();
    let all = conntrack.list_all()?;
    let mut count = 0;
    for protocol in PROTOCOLS {
        let is_concerned = |flow: &&(u8, Flow)| flow.0 == protocol && families.contains(&Family::of(flow.1.source));
        let judged = all.iter().filter(is_concerned).map(|(_, flow)| flow);
        let forbidden: Vec<Flow> =
            judged.filter(|flow| !is_allowed(flow, protocol, &own, layout, selections)).cloned().collect();
        conntrack.delete(protocol, &forbidden)?;
        count += forbidden.len();
    }
    Ok(count)
}

fn is_allowed(flow: &Flow, protocol: u8, own: &HashSet<IpAddr>, layout: &Layout, selections: &Selections) -> bool {
    let connection =
        Connection { source: flow.source, destination: flow.reply_source, protocol, port: flow.reply_source_port };
    // The node's own connections never meet the rules of ingress, whatever address they have.
    allows(layout, selections, Direction::Egress, &connection)
        && (own.contains(&flow.source) || allows(layout, selections, Direction::Ingress, &connection))
}
