//! Names, numbers and addresses of a cluster: pure functions of its name and its node count.

use network::Prefix;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// Clusters take a /24 each of this range.
pub(super) const POOL: Ipv4Addr = Ipv4Addr::new(10, 84, 0, 0);
pub(super) const POOL_LENGTH: u8 = 16;
const SUBNET_LENGTH: u8 = 24;
/// With IPv6, clusters take a /64 each of these locally unique addresses.
pub(super) const POOL_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd84, 0, 0, 0, 0, 0, 0, 0);
pub(super) const POOL_IPV6_LENGTH: u8 = 56;
const SUBNET_IPV6_LENGTH: u8 = 64;
/// One machine is not a test bed for more.
pub(super) const NODES_MAX: u16 = 100;
const NAME_LENGTH_MAX: usize = 20;
/// What of a name fits into the name of an interface (15 characters) beside `kd-` and `-100`.
const SHORT_LENGTH: usize = 8;

/// The kernel keeps 255 bytes with an interface.
const ALIAS_LENGTH_MAX: usize = 250;

/// FNV-1a: any stable hash will do.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// A cluster's name is a DNS label, since its nodes' names begin with it.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let good = !name.is_empty()
        && name.len() <= NAME_LENGTH_MAX
        && name.bytes().all(|byte| plain(byte) || byte == b'-')
        && name.bytes().next().is_some_and(plain)
        && name.bytes().next_back().is_some_and(plain);
    if good {
        return Ok(());
    }
    Err(format!(
        "{name:?} cannot be a cluster's name: it has 1 to {NAME_LENGTH_MAX} lower case letters, digits and '-', beginning \
         and ending with a letter or digit"
    ))
}

/// The name in at most eight characters; longer ones end in a hash.
fn short(name: &str) -> String {
    if name.len() <= SHORT_LENGTH {
        return name.to_owned();
    }
    format!("{}{:05x}", name.get(..3).unwrap_or_default(), hash(name) & 0xf_ffff)
}

/// The bridge's name.
pub(super) fn bridge(name: &str) -> String {
    format!("kd-{}", short(name))
}

/// The name of the bridge's port to a node.
pub(super) fn port(name: &str, number: u16) -> String {
    format!("kd-{}-{number}", short(name))
}

/// The comment of rules in other programs' chains.
pub(super) fn comment(name: &str) -> String {
    format!("klynge dev {name}")
}

/// The text kept with the bridge, by which it is known to be of the cluster in this directory.
pub(super) fn alias(directory: &Path) -> String {
    let mut text = format!("klynge dev {}", directory.display());
    let end = (0..=ALIAS_LENGTH_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or(0));
    text
}

/// The name of the cluster's control groups, which belong to the whole machine: clusters of one name in several directories differ.
pub(super) fn group(directory: &Path, name: &str, is_default: bool) -> String {
    if is_default { name.to_owned() } else { format!("{name}-{:08x}", hash(&directory.to_string_lossy())) }
}

/// The nftables tables' name.
pub(super) fn table(name: &str) -> String {
    format!("klynge-dev-{name}")
}

/// The number under which the process that delays a node's packets has its groups and files.
pub(super) fn delay_number(number: u16) -> u16 {
    1000 + number
}

/// A node's name.
pub(super) fn node_name(name: &str, number: u16) -> String {
    format!("{name}-{number}")
}

/// Cluster and number of a node's name.
pub(super) fn parse_node(text: &str) -> Result<(String, u16), String> {
    let shape = || format!("{text:?} is no node's name: expected CLUSTER-NUMBER, such as dev-2");
    let (name, number) = text.rsplit_once('-').ok_or_else(shape)?;
    let number =
        number.parse::<u16>().ok().filter(|found| *found > 0 && found.to_string() == number).ok_or_else(shape)?;
    check_name(name).map_err(|_| shape())?;
    Ok((name.to_owned(), number))
}

/// The Ethernet address of a node (0: the bridge): stable, so that nobody's neighbour table is wrong after a restart.
pub(super) fn link_address(name: &str, number: u16, far: bool) -> [u8; 6] {
    let [a, b, c, _] = hash(name).to_be_bytes();
    let [high, low] = number.to_be_bytes();
    // Locally administered, unicast. The top bit of the number tells the two ends of a pair apart.
    [0x02, a, b, c, high | if far { 0x80 } else { 0 }, low]
}

/// The first subnet of the pool that touches none of `taken`.
pub(super) fn choose_subnet(taken: &[Prefix]) -> Option<Prefix> {
    (0..=255_u32)
        .map(|index| Prefix::new(IpAddr::V4(Ipv4Addr::from_bits(POOL.to_bits() + (index << 8))), SUBNET_LENGTH))
        .find(|candidate| !taken.iter().any(|other| other.overlaps(candidate)))
}

/// The first IPv6 subnet of the pool that touches none of `taken`.
pub(super) fn choose_subnet_ipv6(taken: &[Prefix]) -> Option<Prefix> {
    (0..=255_u128)
        .map(|index| {
            Prefix::new(IpAddr::V6(Ipv6Addr::from_bits(POOL_IPV6.to_bits() | (index << 64))), SUBNET_IPV6_LENGTH)
        })
        .find(|candidate| !taken.iter().any(|other| other.overlaps(candidate)))
}

/// The address at an offset: the bridge has the first, node N the one after N.
pub(super) fn address(subnet: &Prefix, number: u16) -> IpAddr {
    match subnet.network() {
        IpAddr::V4(base) => IpAddr::V4(Ipv4Addr::from_bits(base.to_bits().wrapping_add(u32::from(number) + 1))),
        IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from_bits(base.to_bits().wrapping_add(u128::from(number) + 1))),
    }
}

/// Reads `--subnet` and checks that it has room.
pub(super) fn parse_subnet(text: &str) -> Result<Prefix, String> {
    let subnet: Prefix =
        text.parse().map_err(|error| format!("--subnet {text}: {error}; expected a range such as 10.84.7.0/24"))?;
    if subnet.network().is_ipv6() || subnet.length() < 8 {
        return Err(format!("--subnet {text}: expected an IPv4 range of at most a /8, such as 10.84.7.0/24"));
    }
    Ok(subnet)
}

/// Refuses more nodes than the subnet has addresses.
pub(super) fn check_room(subnet: &Prefix, nodes: u16) -> Result<(), String> {
    if nodes > NODES_MAX {
        return Err(format!("--nodes {nodes}: a machine takes at most {NODES_MAX} nodes of one cluster"));
    }
    // Without the network's own, the bridge's and the broadcast address.
    let room = (1_u64 << (32 - u32::from(subnet.length().min(32)))).saturating_sub(3);
    if u64::from(nodes) > room {
        return Err(format!("{subnet} has room for {room} nodes, not for {nodes}; choose a larger --subnet"));
    }
    Ok(())
}

/// `2`, `0.5`, `500m`: thousandths of a CPU.
pub(super) fn parse_cpus(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_suffix('m') {
        Some(thousandths) => thousandths.parse::<u32>().ok(),
        None => {
            text.parse::<f64>().ok().filter(|cpus| (0.0..=10_000.0).contains(cpus)).map(|cpus| (cpus * 1000.0) as u32)
        }
    };
    parsed
        .filter(|found| *found >= 10)
        .ok_or_else(|| format!("--cpus {text}: expected a number such as 2, 0.5 or 500m"))
}

/// `2Gi`, `512Mi`, `1G`, or bytes.
pub(super) fn parse_memory(text: &str) -> Result<u64, String> {
    let shape = || format!("--memory {text}: expected a size such as 2Gi or 512Mi, at least 64Mi");
    let split = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: u64 = match unit {
        "" => 1,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        _ => return Err(shape()),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    bytes.filter(|bytes| *bytes >= 64 << 20).ok_or_else(shape)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn names_are_labels_and_interfaces_fit() {
        for good in ["dev", "a", "a-1", "abcdefghijklmnopqrst"] {
            assert_eq!(check_name(good), Ok(()), "{good}");
            assert!(bridge(good).len() <= 15 && port(good, NODES_MAX).len() <= 15, "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a/b", "..", "abcdefghijklmnopqrstu"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert_eq!(port("dev", 2), "kd-dev-2");
        assert_ne!(bridge("long-name-one"), bridge("long-name-two"));
    }

    #[test]
    fn directories_tell_clusters_of_one_name_apart() {
        let [one, other] = ["/a/dev", "/b/dev"].map(Path::new);
        assert_ne!(group(one, "dev", false), group(other, "dev", false));
        assert_eq!(group(one, "dev", true), "dev");
        assert_ne!(alias(one), alias(other));
        assert!(alias(Path::new(&"é".repeat(300))).len() <= ALIAS_LENGTH_MAX);
    }

    #[test]
    fn node_names_read_back() {
        assert_eq!(parse_node(&node_name("a-b", 12)), Ok(("a-b".to_owned(), 12)));
        for bad in ["dev", "dev-", "dev-0", "dev-02", "-1", "dev-x", "dev-70000", "../x-1"] {
            assert!(parse_node(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_first_free_subnet_is_taken() {
        let prefix = |text: &str| text.parse::<Prefix>().unwrap();
        assert_eq!(choose_subnet(&[]), Some(prefix("10.84.0.0/24")));
        assert_eq!(choose_subnet(&[prefix("10.84.0.0/24"), prefix("10.84.1.77/32")]), Some(prefix("10.84.2.0/24")));
        assert_eq!(choose_subnet(&[prefix("10.0.0.0/8")]), None);
        let subnet = prefix("10.84.2.0/24");
        assert_eq!(address(&subnet, 0), IpAddr::from([10, 84, 2, 1]));
        assert_eq!(address(&subnet, 3), IpAddr::from([10, 84, 2, 4]));
        let taken = [prefix("10.0.0.0/8"), prefix("fd84::/64"), prefix("fd84:0:0:1::77/128")];
        assert_eq!(choose_subnet_ipv6(&taken), Some(prefix("fd84:0:0:2::/64")));
        assert_eq!(choose_subnet_ipv6(&[prefix("fc00::/7")]), None);
        assert_eq!(address(&prefix("fd84:0:0:2::/64"), 3).to_string(), "fd84:0:0:2::4");
    }

    #[test]
    fn rooms_are_counted() {
        let small = parse_subnet("192.0.2.0/29").unwrap();
        assert_eq!(check_room(&small, 5), Ok(()));
        assert!(check_room(&small, 6).unwrap_err().contains("room for 5"));
        assert!(check_room(&parse_subnet("10.0.0.0/8").unwrap(), 101).unwrap_err().contains("at most 100"));
        assert!(check_room(&parse_subnet("192.0.2.1/32").unwrap(), 1).is_err());
        assert!(parse_subnet("fd00::/64").is_err() && parse_subnet("x").is_err() && parse_subnet("0.0.0.0/0").is_err());
    }

    #[test]
    fn shares_read_as_quantities() {
        assert_eq!((parse_cpus("2"), parse_cpus("0.5"), parse_cpus("250m")), (Ok(2000), Ok(500), Ok(250)));
        for bad in ["", "0", "-1", "x", "NaN", "1e9"] {
            assert!(parse_cpus(bad).is_err(), "{bad}");
        }
        assert_eq!((parse_memory("2Gi"), parse_memory("512M")), (Ok(2 << 30), Ok(512_000_000)));
        for bad in ["", "1", "63Mi", "2GB", "-1Gi", "99999999999Ti"] {
            assert!(parse_memory(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ethernet_addresses_are_local_and_differ() {
        let all: std::collections::BTreeSet<_> =
            (0..=NODES_MAX).flat_map(|number| [false, true].map(|far| link_address("dev", number, far))).collect();
        assert_eq!(all.len(), 2 * usize::from(NODES_MAX) + 2);
        assert!(all.iter().all(|address| address[0] & 3 == 2));
    }
}
