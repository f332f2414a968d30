//! Addresses and ranges in upstream's words (apimachinery/pkg/util/validation/ip.go, core/validation ValidateEndpointIP). Pure.

use super::invalid_text;
use object::Cause;
use std::net::IpAddr;

/// What keeps traffic of others off a node's own addresses: no endpoint and no external address is in a special range.
pub(crate) fn endpoint_address(field: &str, text: &str) -> Vec<Cause> {
    let Ok(address) = text.parse::<IpAddr>() else {
        return vec![invalid_text(field, text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")];
    };
    let address = address.to_canonical();
    let (is_link_local, is_link_local_multicast) = match address {
        IpAddr::V4(address) => (address.is_link_local(), address.octets().starts_with(&[224, 0, 0])),
        IpAddr::V6(address) => (address.is_unicast_link_local(), address.segments()[0] & 0xff0f == 0xff02),
    };
    let unspecified = format!("may not be unspecified ({text})");
    let found = [
        (address.is_unspecified(), unspecified.as_str()),
        (address.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        (is_link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        (is_link_local_multicast, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
    ];
    found.into_iter().filter(|(holds, _)| *holds).map(|(_, words)| invalid_text(field, text, words)).collect()
}

/// A range in the one form that upstream takes for new fields.
pub(crate) fn canonical_range(field: &str, text: &str) -> Vec<Cause> {
    let wrong = |words: &str| vec![invalid_text(field, text, words)];
    let malformed = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
    let Some((address, length)) = text.split_once('/') else { return wrong(malformed) };
    let has_leading_zero = |part: &str| part.len() > 1 && part.starts_with('0');
    let is_dotted = address.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let plain: Vec<&str> =
        address.split('.').map(|part| if is_dotted { part.trim_start_matches('0') } else { part }).collect();
    let plain = plain.iter().map(|part| if part.is_empty() { "0" } else { part }).collect::<Vec<_>>().join(".");
    let parsed = if is_dotted { plain.parse::<IpAddr>() } else { address.parse::<IpAddr>() };
    let (Ok(ip), Ok(bits)) = (parsed, length.parse::<u8>()) else { return wrong(malformed) };
    if bits > if ip.is_ipv4() { 32 } else { 128 } || length.starts_with('+') {
        return wrong(malformed);
    }
    if has_leading_zero(length) || is_dotted && address.split('.').any(has_leading_zero) {
        return wrong("must not have leading 0s in IP or prefix length");
    }
    if matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some()) {
        return wrong("must not have an IPv4-mapped IPv6 address");
    }
    let network = match ip {
        IpAddr::V4(ip) => ip.to_bits().checked_shl(bits.into()).unwrap_or(0) == 0,
        IpAddr::V6(ip) => ip.to_bits().checked_shl(bits.into()).unwrap_or(0) == 0,
    };
    if !network {
        return wrong("must not have bits set beyond the prefix length");
    }
    let canonical = format!("{ip}/{bits}");
    if canonical == text { Vec::new() } else { wrong(&format!("must be in canonical form ({canonical:?})")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_addresses_are_told_apart() {
        for (text, wanted) in [
            ("10.0.0.1", ""),
            ("2001:db8::1", ""),
            ("224.0.1.1", ""),
            ("0.0.0.0", "may not be unspecified (0.0.0.0)"),
            ("::", "may not be unspecified (::)"),
            ("127.3.4.5", "loopback range"),
            ("::1", "loopback range"),
            ("::ffff:127.0.0.1", "loopback range"),
            ("169.254.169.254", "link-local range"),
            ("fe80::1", "link-local range"),
            ("224.0.0.1", "link-local multicast range"),
            ("ff02::1", "link-local multicast range"),
            ("300.1.1.1", "must be a valid IP address"),
        ] {
            let causes = endpoint_address("ip", text);
            assert_eq!(causes.len(), usize::from(!wanted.is_empty()), "{text}");
            assert!(causes.iter().all(|cause| cause.message.contains(wanted)), "{text}: {causes:?}");
        }
    }

    #[test]
    fn ranges_have_one_form() {
        for (text, wanted) in [
            ("10.0.0.0/8", ""),
            ("0.0.0.0/0", ""),
            ("2001:db8::/64", ""),
            ("nonsense", "must be a valid CIDR value"),
            ("10.0.0.0/33", "must be a valid CIDR value"),
            ("10.0.0.0/+8", "must be a valid CIDR value"),
            ("198.18.3.5/24", "bits set beyond"),
            ("198.18.3.0/024", "leading 0s"),
            ("198.018.3.0/24", "leading 0s"),
            ("2001:DB8:0::/64", "canonical form (\"2001:db8::/64\")"),
            ("::ffff:10.0.0.0/104", "IPv4-mapped"),
        ] {
            let causes = canonical_range("cidr", text);
            assert_eq!(causes.len(), usize::from(!wanted.is_empty()), "{text}: {causes:?}");
            assert!(causes.iter().all(|cause| cause.message.contains(wanted)), "{text}: {causes:?}");
        }
    }
}
