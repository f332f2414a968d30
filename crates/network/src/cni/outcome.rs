//! What plug-ins answer: results and errors, read from their standard output. It is outside input.

use serde_json::Value;
use std::net::IpAddr;

/// Addresses of one pod that are looked at.
const ADDRESSES_MAX: usize = 16;
/// Characters of a plug-in's words that are told on.
const MESSAGE_CHARACTERS_MAX: usize = 4096;

/// The addresses that a result gives the pod, IPv4 first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses(pub Vec<IpAddr>);

impl Addresses {
    /// Reads them out of a result of version 0.3.0 or later: those of interfaces inside the pod.
    ///
    /// # Errors
    /// What is wrong with the result.
    pub fn parse(result: &Value, interface: &str) -> Result<Self, String> {
        let list = |name: &str| -> Result<&[Value], String> {
            match result.get(name) {
                None | Some(Value::Null) => Ok(&[]),
                Some(Value::Array(list)) => Ok(list),
                Some(_) => Err(format!("{name:?} in the result is no list")),
            }
        };
        let interfaces = list("interfaces")?;
        let is_inside = |entry: &Value| {
            let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
            !text("sandbox").is_empty() && text("name") == interface
        };
        let mut found: Vec<IpAddr> = Vec::new();
        for entry in list("ips")?.iter().take(ADDRESSES_MAX) {
            let text = entry.get("address").and_then(Value::as_str).ok_or("an address in the result is no text")?;
            let address: IpAddr = text
                .split('/')
                .next()
                .and_then(|address| address.parse().ok())
                .ok_or_else(|| format!("{text:?} in the result is no address"))?;
            let place = match entry.get("interface") {
                None | Some(Value::Null) => None,
                Some(index) => {
                    let index = index.as_u64().and_then(|index| usize::try_from(index).ok());
                    let place = index.and_then(|index| interfaces.get(index));
                    Some(place.ok_or_else(|| format!("the address {text} is on an interface that the result lacks"))?)
                }
            };
            if place.is_none_or(is_inside) && !found.contains(&address) {
                found.push(address);
            }
        }
        found.sort_by_key(IpAddr::is_ipv6);
        Ok(Self(found))
    }
}

/// A plug-in's own account of a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginError {
    /// Its number; from 100 they are the plug-in's own.
    pub code: u64,
    /// Its words, and the details after a semicolon, as libcni writes them.
    pub message: String,
}

impl PluginError {
    /// Reads it from what the plug-in wrote; None where that is no error of CNI's.
    #[must_use]
    pub fn parse(output: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(output).ok()?;
        let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
        let message = match (text("msg"), text("details")) {
            ("", "") => return None,
            (message, "") => message.to_owned(),
            (message, details) => format!("{message}; {details}"),
        };
        let code = value.get("code").and_then(Value::as_u64).unwrap_or(0);
        Some(Self { code, message: shortened(&message) })
    }
}

/// Foreign words, cut where they are too long.
pub(super) fn shortened(text: &str) -> String {
    let text = text.trim();
    match text.char_indices().nth(MESSAGE_CHARACTERS_MAX) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;

    #[test]
    fn addresses_inside_the_pod_are_found() {
        let interfaces = r#""interfaces":[{"name":"cni0"},{"name":"veth1"},{"name":"eth0","sandbox":"/proc/7/ns/net"},{"name":"net1","sandbox":"/proc/7/ns/net"}]"#;
        for (ips, wanted) in [
            (r#""ips":[{"version":"4","interface":2,"address":"10.1.0.5/16"}]"#, Ok("10.1.0.5")),
            (
                r#""ips":[{"interface":2,"address":"fd00::5/64"},{"interface":2,"address":"10.1.0.5/16"}]"#,
                Ok("10.1.0.5 fd00::5"),
            ),
            (r#""ips":[{"address":"10.1.0.5/16"},{"interface":0,"address":"10.1.0.1/16"}]"#, Ok("10.1.0.5")),
            (r#""ips":[{"interface":3,"address":"10.9.0.1/16"}]"#, Ok("")),
            (r#""ips":[{"interface":2,"address":"10.1.0.5"},{"interface":2,"address":"10.1.0.5"}]"#, Ok("10.1.0.5")),
            (r#""ips":null"#, Ok("")),
            (r#""ips":[{"interface":9,"address":"10.1.0.5/16"}]"#, Err("interface that the result lacks")),
            (r#""ips":[{"interface":-1,"address":"10.1.0.5/16"}]"#, Err("interface that the result lacks")),
            (r#""ips":[{"address":"nonsense"}]"#, Err("no address")),
            (r#""ips":[7]"#, Err("no text")),
            (r#""ips":{}"#, Err("no list")),
        ] {
            let result: Value = serde_json::from_str(&format!("{{{interfaces},{ips}}}")).unwrap();
            let found = Addresses::parse(&result, "eth0");
            match (found, wanted) {
                (Ok(found), Ok(wanted)) => {
                    let words: Vec<String> = found.0.iter().map(ToString::to_string).collect();
                    assert_eq!(words.join(" "), wanted, "{ips}");
                }
                (Err(why), Err(part)) => assert!(why.contains(part), "{ips}: {why}"),
                (found, wanted) => panic!("{ips}: {found:?}, wanted {wanted:?}"),
            }
        }
    }

    #[test]
    fn errors_are_told_in_the_plugins_words() {
        let told = |text: &str| PluginError::parse(text.as_bytes()).map(|error| (error.code, error.message));
        assert_eq!(told(r#"{"code":11,"msg":"try later"}"#), Some((11, "try later".to_owned())));
        assert_eq!(told(r#"{"code":7,"msg":"bad","details":"mtu"}"#), Some((7, "bad; mtu".to_owned())));
        for text in ["", "{}", "panic: nil", r#"{"code":7}"#, "[1]"] {
            assert_eq!(told(text), None, "{text}");
        }
        assert_eq!(shortened(&"ä".repeat(5000)).chars().count(), MESSAGE_CHARACTERS_MAX + 3);
    }
}
