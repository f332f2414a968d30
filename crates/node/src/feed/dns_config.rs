//! Who is asked about names outside the cluster, as the cluster's people say it: the ConfigMap `kube-system/kube-dns` with upstream's
//! keys `stubDomains` and `upstreamNameservers` ("Customizing DNS Service"). What was read last is kept for starts without the API.

use super::checkpoint;
use crate::agent::{Change, follow};
use client::{ClusterClient, Query, Target};
use k8s_openapi::api::core::v1::ConfigMap;
use network::dns::process::Handle;
use network::dns::{Name, Outside};
use object::GroupVersionResource;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-dns";
const STUB_DOMAINS: &str = "stubDomains";
const SERVERS: &str = "upstreamNameservers";
const PORT: u16 = 53;
const DOMAINS_MAX: usize = 256;
/// Of one domain, and of all others: glibc asks no more either.
const SERVERS_MAX: usize = 3;
/// The format of what is kept.
const FORMAT: &str = "1";

/// Reads the ConfigMap's data.
///
/// # Errors
/// A sentence that names the key.
pub fn outside(data: &BTreeMap<String, String>) -> Result<Outside, String> {
    let text = |key: &str| data.get(key).map(String::as_str).map(str::trim).filter(|text| !text.is_empty());
    let mut found = Outside::default();
    if let Some(text) = text(STUB_DOMAINS) {
        let wrong =
            |why: String| format!("{STUB_DOMAINS}: {why}; expected such as {{\"corp.example\": [\"192.0.2.53\"]}}");
        let domains: BTreeMap<String, Vec<String>> =
            serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
        if domains.len() > DOMAINS_MAX {
            return Err(wrong(format!("there are more than {DOMAINS_MAX} domains")));
        }
        for (domain, list) in domains {
            Name::parse(&domain).map_err(|error| wrong(format!("{domain:?}: {error}")))?;
            let list = servers(&list).map_err(|why| wrong(format!("{domain:?}: {why}")))?;
            found.stub_domains.push((domain, list));
        }
    }
    if let Some(text) = text(SERVERS) {
        let wrong = |why: String| format!("{SERVERS}: {why}; expected such as [\"192.0.2.53\", \"192.0.2.54:5353\"]");
        let list: Vec<String> = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
        found.servers = servers(&list).map_err(wrong)?;
    }
    Ok(found)
}

fn servers(texts: &[String]) -> Result<Vec<SocketAddr>, String> {
    if texts.is_empty() || texts.len() > SERVERS_MAX {
        return Err(format!("{} servers, 1 to {SERVERS_MAX} are taken", texts.len()));
    }
    let one = |text: &String| {
        let address = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT));
        let address = address.or_else(|_| text.parse());
        address.map_err(|_| format!("{text:?} is no address, with or without a port"))
    };
    texts.iter().map(one).collect()
}

/// Keeps cluster DNS as the ConfigMap says until the process ends. What cannot be read is told, and changes nothing.
pub async fn keep_dns_config(client: Arc<dyn ClusterClient>, dns: Arc<Handle>, kept: PathBuf) {
    if let Some(data) = load(&kept)
        && let Ok(outside) = outside(&data)
    {
        let _ = dns.set_outside(&outside); // it was taken before
    }
    let target = Target {
        resource: GroupVersionResource::new("", "v1", "configmaps"),
        namespace: NAMESPACE.into(),
        name: Default::default(),
        subresource: Default::default(),
    };
    let query = Query { fields: format!("metadata.name={NAME}"), ..Query::default() };
    let (sender, mut changes) = mpsc::channel::<Change<ConfigMap>>(16);
    let mut following = JoinSet::new(); // ends with this future
    following.spawn(follow::<ConfigMap>(client, target, query, sender));
    while let Some(change) = changes.recv().await {
        let object = match change {
            Change::All(all) => all.into_iter().next(),
            Change::Put(object) => Some(object),
            Change::Gone(_) => None,
        };
        let data = object.and_then(|object| object.data.clone()).unwrap_or_default();
        let taken = outside(&data).and_then(|found| {
            dns.set_outside(&found).map_err(|error| error.to_string())?;
            Ok(found)
        });
        match taken {
            Ok(found) => {
                tracing::debug!(stub_domains = found.stub_domains.len(), servers = found.servers.len(), "cluster DNS");
                if let Err(error) = save(&kept, &data) {
                    tracing::warn!(%error, "the settings of cluster DNS could not be kept");
                }
            }
            Err(problem) => {
                tracing::warn!(problem, "the ConfigMap {NAMESPACE}/{NAME} cannot be used; cluster DNS stays as it was");
            }
        }
    }
}

fn load(path: &Path) -> Option<BTreeMap<String, String>> {
    let (format, data): (String, BTreeMap<String, String>) = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    // Another format is only a cache that is not used.
    (format == FORMAT).then_some(data)
}

fn save(path: &Path, data: &BTreeMap<String, String>) -> std::io::Result<()> {
    if load(path).as_ref() == Some(data) {
        return Ok(());
    }
    checkpoint::write(path, &(FORMAT, data))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn settings_are_read_or_say_what_is_wrong() {
        let data = |stubs: &str, servers: &str| {
            [(STUB_DOMAINS, stubs), (SERVERS, servers)].map(|(key, text)| (key.to_owned(), text.to_owned())).into()
        };
        let read = |stubs: &str, servers: &str| outside(&data(stubs, servers));
        assert_eq!(outside(&BTreeMap::new()), Ok(Outside::default()));
        assert_eq!(read("", " \n"), Ok(Outside::default()));
        let found = read(r#"{"corp.example": ["192.0.2.53", "[2001:db8::53]:5353"]}"#, r#"["192.0.2.1:54"]"#).unwrap();
        assert_eq!(
            format!("{:?} {:?}", found.stub_domains, found.servers),
            "[(\"corp.example\", [192.0.2.53:53, [2001:db8::53]:5353])] [192.0.2.1:54]"
        );
        for (stubs, servers, word) in [
            ("[]", "", "stubDomains"),
            (r#"{"corp.example": "192.0.2.53"}"#, "", "stubDomains"),
            (r#"{"corp.example": []}"#, "", "0 servers"),
            (r#"{"a..b": ["192.0.2.53"]}"#, "", "a..b"),
            (r#"{"corp.example": ["resolver.example"]}"#, "", "no address"),
            ("", r#"["1.1.1.1","1.1.1.2","1.1.1.3","1.1.1.4"]"#, "4 servers"),
            ("", "192.0.2.1", "upstreamNameservers"),
        ] {
            let why = read(stubs, servers).unwrap_err();
            assert!(why.contains(word), "{stubs} {servers}: {why}");
        }
    }

    #[test]
    fn what_was_read_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dns.json");
        assert_eq!(load(&path), None);
        let data = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        save(&path, &data).unwrap();
        assert_eq!(load(&path), Some(data));
        std::fs::write(&path, r#"["2",{}]"#).unwrap();
        assert_eq!(load(&path), None);
    }
}
