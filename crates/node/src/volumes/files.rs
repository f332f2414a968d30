//! The files that every container finds: /etc/hosts and /etc/resolv.conf, as upstream writes them. Pure.

use k8s_openapi::api::core::v1::Pod;
use std::fmt::Write;
use std::net::IpAddr;

/// The resolver settings of the host and the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostDns {
    /// Name servers of the host that work from inside a pod.
    pub nameservers: Vec<String>,
    /// Search domains of the host.
    pub search: Vec<String>,
    /// Options of the host.
    pub options: Vec<String>,
    /// The cluster's name server.
    pub cluster_servers: Vec<IpAddr>,
    /// The cluster's domain, such as `cluster.local`.
    pub cluster_domain: String,
}

const NAMESERVERS_MAX: usize = 3;
const SEARCH_DOMAINS_MAX: usize = 32;
const SEARCH_BYTES_MAX: usize = 2048;

impl HostDns {
    /// Reads a resolv.conf; loopback servers (systemd-resolved's stub) are left out, as no pod can reach them.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut dns = HostDns::default();
        for line in text.lines().take(1000) {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let servers =
                        words.next().filter(|server| !server.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()));
                    dns.nameservers.extend(servers.map(str::to_owned));
                }
                Some("search" | "domain") => {
                    dns.search = words.filter(|word| *word != ".").map(str::to_owned).collect()
                }
                Some("options") => dns.options = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
        dns
    }
}

/// The content of /etc/resolv.conf for a pod.
#[must_use]
pub fn resolv_conf(pod: &Pod, host: &HostDns) -> String {
    let spec = pod.spec.clone().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let policy = match (spec.dns_policy.as_deref().unwrap_or("ClusterFirst"), spec.host_network.unwrap_or(false)) {
        ("ClusterFirst", true) => "Default",
        ("ClusterFirstWithHostNet", _) => "ClusterFirst",
        (policy, _) => policy,
    };
    let mut nameservers: Vec<String>;
    let mut search: Vec<String>;
    let mut options: Vec<String>;
    match policy {
        "None" => (nameservers, search, options) = Default::default(),
        "ClusterFirst" if !host.cluster_servers.is_empty() => {
            nameservers = host.cluster_servers.iter().map(ToString::to_string).collect();
            let domain = &host.cluster_domain;
            search = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
            search.extend(host.search.iter().cloned());
            options = vec!["ndots:5".into()];
        }
        _ => (nameservers, search, options) = (host.nameservers.clone(), host.search.clone(), host.options.clone()),
    }
    if let Some(config) = spec.dns_config {
        nameservers.extend(config.nameservers.into_iter().flatten());
        search.extend(config.searches.into_iter().flatten());
        for option in config.options.into_iter().flatten() {
            let Some(name) = option.name else { continue };
            options.retain(|have| have.split(':').next() != Some(name.as_str()));
            options.push(match option.value {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name,
            });
        }
    }
    let unique = |list: Vec<String>| {
        let mut kept: Vec<String> = Vec::new();
        for one in list {
            if !kept.contains(&one) {
                kept.push(one);
            }
        }
        kept
    };
    nameservers = unique(nameservers);
    search = unique(search);
    nameservers.truncate(NAMESERVERS_MAX);
    search.truncate(SEARCH_DOMAINS_MAX);
    while search.iter().map(|domain| domain.len() + 1).sum::<usize>() > SEARCH_BYTES_MAX {
        search.pop();
    }
    let mut text = String::new();
    if !search.is_empty() {
        let _ = writeln!(text, "search {}", search.join(" "));
    }
    for server in nameservers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !options.is_empty() {
        let _ = writeln!(text, "options {}", options.join(" "));
    }
    text
}

/// The pod's hostname and its fully qualified name: with a subdomain it is `host.subdomain.namespace.svc.domain`.
#[must_use]
pub fn hostnames(pod: &Pod, cluster_domain: &str) -> (String, Option<String>) {
    let spec = pod.spec.as_ref();
    let name = pod.metadata.name.clone().unwrap_or_default();
    let own = spec
        .and_then(|spec| spec.hostname_override.clone().or_else(|| spec.hostname.clone()))
        .filter(|own| !own.is_empty());
    let mut host = own.unwrap_or(name);
    host.truncate(63); // the kernel takes 64 bytes, DNS labels 63
    let host = host.trim_end_matches(['-', '.']).to_owned();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let subdomain = spec.and_then(|spec| spec.subdomain.as_deref()).filter(|subdomain| !subdomain.is_empty());
    let full = subdomain.map(|subdomain| format!("{host}.{subdomain}.{namespace}.svc.{cluster_domain}"));
    (host, full)
}

/// The content of /etc/hosts for a pod; a pod of the host's network gets the host's file with its aliases.
#[must_use]
pub fn hosts_file(pod: &Pod, addresses: &[IpAddr], cluster_domain: &str, host_file: &str) -> String {
    let spec = pod.spec.as_ref();
    let mut text;
    if spec.and_then(|spec| spec.host_network).unwrap_or(false) {
        text = format!("# Kubernetes-managed hosts file (host network).\n{host_file}");
    } else {
        text = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
                fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n"
            .to_owned();
        let (host, full) = hostnames(pod, cluster_domain);
        for address in addresses {
            let _ = match &full {
                Some(full) => writeln!(text, "{address}\t{full}\t{host}"),
                None => writeln!(text, "{address}\t{host}"),
            };
        }
    }
    let aliases = spec.and_then(|spec| spec.host_aliases.as_deref()).unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let _ = writeln!(text, "{}\t{}", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "web-0", "namespace": "shop"}, "spec": spec})).unwrap()
    }

    #[test]
    fn resolver_settings_by_policy() {
        let mut host =
            HostDns::parse("search corp.example\nnameserver 127.0.0.53\nnameserver 192.0.2.53\noptions edns0\n");
        host.cluster_servers = vec!["10.96.0.10".parse().unwrap()];
        host.cluster_domain = "cluster.local".into();
        let cluster = "search shop.svc.cluster.local svc.cluster.local cluster.local corp.example\nnameserver 10.96.0.10\noptions ndots:5\n";
        let plain = "search corp.example\nnameserver 192.0.2.53\noptions edns0\n";
        let config = json!({"nameservers": ["1.1.1.1"], "searches": ["x.y"], "options": [{"name": "ndots", "value": "2"}, {"name": "rotate"}]});
        let cases = [
            (json!({"containers": []}), cluster.to_owned()),
            (json!({"containers": [], "hostNetwork": true}), plain.to_owned()),
            (
                json!({"containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}),
                cluster.to_owned(),
            ),
            (json!({"containers": [], "dnsPolicy": "Default"}), plain.to_owned()),
            (
                json!({"containers": [], "dnsPolicy": "None", "dnsConfig": config}),
                "search x.y\nnameserver 1.1.1.1\noptions ndots:2 rotate\n".to_owned(),
            ),
        ];
        for (spec, expected) in cases {
            assert_eq!(resolv_conf(&pod(spec.clone()), &host), expected, "{spec}");
        }
    }

    #[test]
    fn hosts_file_names_the_pod_and_its_aliases() {
        let spec =
            json!({"containers": [], "subdomain": "web", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]});
        let text = hosts_file(&pod(spec), &["10.0.0.5".parse().unwrap()], "cluster.local", "");
        assert!(text.contains("10.0.0.5\tweb-0.web.shop.svc.cluster.local\tweb-0\n"), "{text}");
        assert!(text.ends_with("1.2.3.4\ta\tb\n"), "{text}");
    }
}
