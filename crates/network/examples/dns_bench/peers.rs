//! Knot and unbound as Debian ships them, serving the same names as the benchmark's own zone, each on an address of its own.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use klynge_network::netlink::NetworkNamespace;

/// A running server; ended and forgotten when dropped.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    child: Child,
    _files: tempfile::TempDir,
}

impl Peer {
    /// The processor time that its threads have used so far, in seconds.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        crate::cpu_seconds(self.child.id(), None)
    }

    /// Proportional set size.
    pub(crate) fn memory_kib(&self) -> u64 {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id())).unwrap_or_default();
        let line = rollup.lines().find(|line| line.starts_with("Pss:")).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts those that are installed. `services` pairs names with addresses.
pub(crate) fn start(
    namespace: &NetworkNamespace,
    services: &[(String, Ipv4Addr)],
) -> Result<Vec<Peer>, Box<dyn Error>> {
    let mut peers = Vec::new();
    for (name, program, address, write) in [
        (
            "knot",
            "/usr/sbin/knotd",
            "127.0.0.2:53",
            write_knot as fn(&str, &str, &[(String, Ipv4Addr)]) -> std::io::Result<Vec<String>>,
        ),
        ("unbound", "/usr/sbin/unbound", "127.0.0.3:53", write_unbound),
    ] {
        if !std::path::Path::new(program).exists() {
            println!("{name}: not measured (absent; apt-get install {name})");
            continue;
        }
        let files = tempfile::tempdir()?;
        let directory = files.path().to_str().ok_or("a path that is not text")?;
        let address: SocketAddr = address.parse()?;
        let arguments = write(directory, &address.ip().to_string(), services)?;
        let child = namespace
            .run(|| Command::new(program).args(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn())?
            .map_err(|error| format!("{program}: {error}"))?;
        let peer = Peer { name, address, child, _files: files };
        wait_until_answering(namespace, &peer, services)?;
        peers.push(peer);
    }
    Ok(peers)
}

/// The last name too is answered with one address, so the whole zone is loaded.
fn wait_until_answering(
    namespace: &NetworkNamespace,
    peer: &Peer,
    services: &[(String, Ipv4Addr)],
) -> Result<(), Box<dyn Error>> {
    let last = services.last().ok_or("no names")?;
    let question = crate::question(&format!("{}.default.svc.cluster.local", last.0), 1)?;
    let client = crate::client(namespace, peer.address)?;
    client.set_read_timeout(Some(Duration::from_millis(100)))?;
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut buffer = [0; 512];
    while Instant::now() < deadline {
        let is_answered = client.send(&question).is_ok()
            && client.recv(&mut buffer).is_ok()
            && buffer.get(3).is_some_and(|flags| flags & 0x0f == 0)
            && buffer.get(6..8) == Some(&[0, 1]);
        if is_answered {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(format!("{} did not answer within 20 s", peer.name).into())
}

/// A zone of its own, two UDP workers as ours has two threads, no rate limit (its default).
fn write_knot(directory: &str, address: &str, services: &[(String, Ipv4Addr)]) -> std::io::Result<Vec<String>> {
    let mut zone = String::from(
        "$ORIGIN cluster.local.\n$TTL 5\n@ SOA ns.dns hostmaster 1 7200 1800 86400 5\n@ NS ns.dns\nns.dns A 127.0.0.2\n",
    );
    for (name, service_address) in services {
        let _ = writeln!(
            zone,
            "{name}.default.svc A {service_address}\n_http._tcp.{name}.default.svc SRV 0 100 80 {name}.default.svc"
        );
    }
    fs::write(format!("{directory}/cluster.zone"), zone)?;
    let configuration = format!(
        "server:\n    rundir: {directory}\n    listen: {address}@53\n    udp-workers: 2\n    tcp-workers: 1\n    background-workers: 1\n\
         database:\n    storage: {directory}\n\
         template:\n  - id: default\n    storage: {directory}\n    journal-content: none\n    zonefile-load: whole\n    semantic-checks: off\n\
         zone:\n  - domain: cluster.local\n    file: cluster.zone\n"
    );
    fs::write(format!("{directory}/knot.conf"), configuration)?;
    Ok(vec!["-c".to_owned(), format!("{directory}/knot.conf")])
}

/// Local data of a static zone, two threads, each with a socket of its own.
fn write_unbound(directory: &str, address: &str, services: &[(String, Ipv4Addr)]) -> std::io::Result<Vec<String>> {
    let mut configuration = format!(
        "server:\n  directory: \"{directory}\"\n  chroot: \"\"\n  username: \"\"\n  pidfile: \"{directory}/pid\"\n  use-syslog: no\n  logfile: \"{directory}/log\"\n  \
         interface: {address}\n  port: 53\n  num-threads: 2\n  so-reuseport: yes\n  do-daemonize: no\n  do-not-query-localhost: no\n  module-config: \"iterator\"\n  \
         access-control: 127.0.0.0/8 allow\n  minimal-responses: yes\n  local-zone: \"cluster.local.\" static\n  \
         local-data: \"cluster.local. 5 SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5\"\n"
    );
    for (name, service_address) in services {
        let name = format!("{name}.default.svc.cluster.local.");
        let _ = writeln!(
            configuration,
            "  local-data: \"{name} 5 A {service_address}\"\n  local-data: \"_http._tcp.{name} 5 SRV 0 100 80 {name}\""
        );
    }
    configuration.push_str("remote-control:\n  control-enable: no\n");
    fs::write(format!("{directory}/unbound.conf"), configuration)?;
    Ok(vec!["-d".to_owned(), "-c".to_owned(), format!("{directory}/unbound.conf")])
}
