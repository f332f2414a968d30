//! ServiceCIDR: a range of cluster addresses.

use crate::Hooks;
use crate::Resource;
use crate::edit::items;
use crate::validation::{immutable, invalid, invalid_text, required};
use object::table::Column;
use object::{Cause, Value};

/// The row of ServiceCIDR.
pub(super) fn row() -> Resource {
    Resource::new("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs")
        .cluster()
        .status()
        .with_columns(vec![
            Column::name(),
            Column::new("CIDRs", |range, _| {
                let all: Vec<&str> = items(range, &["spec", "cidrs"]).iter().filter_map(Value::as_str).collect();
                all.join(",").into()
            }),
            Column::age(),
        ])
        .with_hooks(ServiceCidr)
}

struct ServiceCidr;

fn has_host_bits(ip: std::net::IpAddr, bits: u8) -> bool {
    match ip {
        std::net::IpAddr::V4(ip) => ip.to_bits().checked_shl(bits.into()).unwrap_or(0) != 0,
        std::net::IpAddr::V6(ip) => ip.to_bits().checked_shl(bits.into()).unwrap_or(0) != 0,
    }
}

impl Hooks for ServiceCidr {
    fn validate(&self, range: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        let cidrs = items(range, &["spec", "cidrs"]);
        let shown = || Value::Array(cidrs.to_vec());
        match cidrs {
            [] => causes.push(required("spec.cidrs", "at least one CIDR required")),
            [first, second] => {
                let family = |cidr: &Value| cidr.as_str().is_some_and(|text| text.contains(':'));
                if family(first) == family(second) {
                    let detail =
                        "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
                    causes.push(invalid("spec.cidrs", &shown(), detail));
                }
            }
            [_] => {}
            _ => causes.push(invalid("spec.cidrs", &shown(), "may only hold up to 2 values")),
        }
        for (at, cidr) in cidrs.iter().enumerate() {
            let text = cidr.as_str().unwrap_or_default();
            let parts = text
                .split_once('/')
                .and_then(|(ip, bits)| Some((ip.parse::<std::net::IpAddr>().ok()?, bits.parse::<u8>().ok()?)));
            let fits = parts.is_some_and(|(ip, bits)| bits <= if ip.is_ipv4() { 32 } else { 128 });
            if !fits {
                let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
                causes.push(invalid_text(&format!("spec.cidrs[{at}]"), text, detail));
            } else if parts.is_some_and(|(ip, bits)| has_host_bits(ip, bits)) {
                let detail = "must not have bits set beyond the prefix length";
                causes.push(invalid_text(&format!("spec.cidrs[{at}]"), text, detail));
            }
        }
        causes
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        // A range of the other family may be added, as upstream allows.
        let (before, after) = (items(old, &["spec", "cidrs"]), items(new, &["spec", "cidrs"]));
        if !(before.len() == 1 && after.len() == 2 && before.first() == after.first()) {
            immutable(&mut causes, new, old, &["spec", "cidrs"]);
        }
        causes
    }
}
