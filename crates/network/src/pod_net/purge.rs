//! Takes everything back that the pod network put on the host.

use std::net::IpAddr;

use super::attach::delete_interface;
use super::bandwidth::parse_block;
use super::compile::parse_alias;
use super::encryption::{self, ENCRYPTION_TABLE};
use super::error::Error;
use super::host_firewall::withdraw_admission;
use super::host_setup::{self, Options};
use super::reaper::reap;
use super::rules::TABLE;
use super::vxlan::{TUNNEL_TABLE, tunnel_links};
use crate::POD_INTERFACE_PREFIX;
use crate::netlink::{LinkInfo, NetworkNamespace, Nft, Rtnetlink};

/// How many pods the built-in network has attached, as the kernel has it.
pub fn attached_pods(namespace: &NetworkNamespace) -> Result<usize, Error> {
    let links = Rtnetlink::open_in(namespace)?.links()?;
    let is_ours = |link: &&LinkInfo| link.name.starts_with(POD_INTERFACE_PREFIX) && parse_alias(&link.alias).is_some();
    Ok(links.iter().filter(is_ours).count())
}

/// Removes interfaces, routes, local addresses, rules (also those in other programs' chains) and files, and gives sysctls their former
/// values. Needs no running agent, and may be called again after a failure.
pub fn purge(options: &Options, local_addresses: &[IpAddr]) -> Result<(), Error> {
    let mut rtnetlink = Rtnetlink::open_in(&options.namespace)?;
    let mut nft = Nft::open_in(&options.namespace)?;
    reap(rtnetlink.socket())?;
    for link in rtnetlink.links()? {
        if link.name.starts_with(POD_INTERFACE_PREFIX) && parse_alias(&link.alias).is_some() {
            delete_interface(&mut rtnetlink, &link.name)?;
        }
        if parse_block(&link).is_some() {
            delete_interface(&mut rtnetlink, &link.name)?;
        }
    }
    for (_, link) in tunnel_links(&rtnetlink.links()?) {
        delete_interface(&mut rtnetlink, &link.name)?;
    }
    if encryption::is_there(&rtnetlink.links()?) {
        delete_interface(&mut rtnetlink, encryption::INTERFACE)?;
    }
    for address in local_addresses {
        host_setup::set_local_address(&mut rtnetlink, *address, false)?;
    }
    host_setup::remove_routes(&mut rtnetlink)?;
    nft.delete_tables(&[TABLE, TUNNEL_TABLE, ENCRYPTION_TABLE])?;
    withdraw_admission(&mut nft)?;
    host_setup::restore_sysctls(options)?;
    if let Some(directory) = &options.directory {
        // Absent is fine; the directory belongs to the caller.
        let _ = std::fs::remove_file(directory.join("addresses.json"));
    }
    Ok(())
}
