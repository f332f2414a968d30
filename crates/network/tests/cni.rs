//! Pods attached by Debian's CNI plug-ins, in network namespaces of their own. Each test is skipped, and says so, where they are not installed.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod bed;

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command};

use bed::{ask, eventually, ip, serve_tcp};
use klynge_network::cni::{Attachment, Error, Options, Plugins, PortMapping};
use klynge_network::netlink::{NetworkNamespace, Rtnetlink};

const DEBIAN: &str = "/usr/lib/cni";

/// A host with plug-ins, and its pods.
struct Host {
    namespace: NetworkNamespace,
    directory: tempfile::TempDir,
    plugins: Plugins,
}

/// A process with a network namespace of its own.
struct Pod {
    process: Child,
    namespace: NetworkNamespace,
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Pod {
    fn new() -> Self {
        let namespace = NetworkNamespace::create().unwrap();
        let process = namespace.run(|| Command::new("sleep").arg("600").spawn().unwrap()).unwrap();
        Self { process, namespace }
    }

    fn attachment(&self, uid: &str) -> Attachment {
        Attachment {
            uid: uid.to_owned(),
            namespace: "default".to_owned(),
            name: uid.to_owned(),
            process: self.process.id(),
            ..Attachment::default()
        }
    }
}

impl Host {
    fn new(programs: &Path) -> Self {
        let namespace = NetworkNamespace::create().unwrap();
        let mut rtnetlink = Rtnetlink::open_in(&namespace).unwrap();
        bed::give_address(&mut rtnetlink, "lo", &[("192.0.2.1", 32)]);
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("net.d")).unwrap();
        let plugins = Plugins::open(Options {
            configuration: directory.path().join("net.d"),
            programs: vec![directory.path().join("none"), programs.to_owned()],
            records: directory.path().join("records"),
        })
        .unwrap();
        Self { namespace, directory, plugins }
    }

    fn configure(&self, plugins: &str) {
        let text = format!(r#"{{"cniVersion":"0.4.0","name":"test","plugins":[{plugins}]}}"#);
        let text = text.replace("DATA", &self.directory.path().join("leases").display().to_string());
        std::fs::write(self.directory.path().join("net.d/10-test.conflist"), text).unwrap();
    }

    fn attach(&self, attachment: &Attachment) -> Result<Vec<IpAddr>, Error> {
        // A program is started in the network namespace of the thread that starts it.
        self.namespace.run(|| self.plugins.attach(attachment)).unwrap()
    }

    fn detach(&self, uid: &str) -> Result<(), Error> {
        self.namespace.run(|| self.plugins.detach(uid)).unwrap()
    }

    fn leases(&self) -> usize {
        let leases = std::fs::read_dir(self.directory.path().join("leases/test"));
        leases.map_or(0, |list| {
            list.filter(|one| one.as_ref().unwrap().file_name().to_str().unwrap().contains("10.")).count()
        })
    }

    fn links(&self) -> usize {
        let links = Rtnetlink::open_in(&self.namespace).unwrap().links().unwrap();
        links.iter().filter(|link| link.kind == "veth").count()
    }
}

fn are_there() -> bool {
    let are_there = Path::new(DEBIAN).join("bridge").exists();
    if !are_there {
        eprintln!("skipped: Debian's containernetworking-plugins are not installed");
    }
    are_there
}

const BRIDGE: &str = r#"{"type":"bridge","bridge":"cni0","isGateway":true,"hairpinMode":true,
    "ipam":{"type":"host-local","dataDir":"DATA","ranges":[[{"subnet":"10.88.0.0/24"}],[{"subnet":"fd00:88::/64"}]],
    "routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0"}]}}"#;

#[test]
fn a_bridge_joins_pods_and_leaves_nothing() {
    if !are_there() {
        return;
    }
    let host = Host::new(Path::new(DEBIAN));
    assert!(matches!(host.plugins.readiness(), Err(Error::Uninitialized(_))));
    host.configure(BRIDGE);
    host.plugins.readiness().unwrap();
    let (one, other) = (Pod::new(), Pod::new());
    let addresses = host.attach(&one.attachment("uid-1")).unwrap();
    assert_eq!(addresses.iter().map(IpAddr::is_ipv4).collect::<Vec<_>>(), [true, false]);
    assert_eq!(host.plugins.addresses_of("uid-1"), Some(addresses.clone()));
    let others = host.attach(&other.attachment("uid-2")).unwrap();
    serve_tcp(&one.namespace, "[::]", 8080, "one");
    assert_eq!(ask(&one.namespace, ip("127.0.0.1"), 8080).unwrap().0, "one", "the loopback interface is up");
    for (to, from) in addresses.iter().zip(&others) {
        eventually("the bridge forwards", || ask(&other.namespace, *to, 8080).is_ok());
        assert_eq!(ask(&other.namespace, *to, 8080).unwrap(), ("one".to_owned(), *from));
    }
    // Again, as by an agent that lost its memory: the old attachment is taken back first.
    host.attach(&one.attachment("uid-1")).unwrap();
    assert_eq!((host.leases(), host.links()), (2, 2));
    // A pod whose namespace is gone, as after the loss of its process.
    drop(other);
    host.detach("uid-2").unwrap();
    host.detach("uid-2").unwrap();
    assert_eq!(host.leases(), 1);
    // What belongs to nobody is taken back after a restart, with the configuration of then.
    std::fs::remove_dir_all(host.directory.path().join("net.d")).unwrap();
    host.namespace.run(|| host.plugins.recover(|uid| uid == "uid-1").unwrap()).unwrap();
    assert_eq!(host.leases(), 1);
    host.namespace.run(|| host.plugins.recover(|_| false).unwrap()).unwrap();
    assert_eq!((host.leases(), host.links()), (0, 0));
    assert_eq!(host.plugins.addresses_of("uid-1"), None);
}

#[test]
fn ports_of_the_host_lead_to_a_pod_through_portmap() {
    if !are_there() || !Command::new("iptables").arg("--version").status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: portmap needs iptables");
        return;
    }
    let host = Host::new(Path::new(DEBIAN));
    host.configure(
        r#"{"type":"ptp","ipam":{"type":"host-local","dataDir":"DATA","subnet":"10.88.0.0/24","routes":[{"dst":"0.0.0.0/0"}]}},
        {"type":"portmap","capabilities":{"portMappings":true},"snat":true},
        {"type":"bandwidth","capabilities":{"bandwidth":true}}"#,
    );
    let pod = Pod::new();
    serve_tcp(&pod.namespace, "0.0.0.0", 80, "pod");
    let mut attachment = pod.attachment("uid-1");
    attachment.port_mappings =
        vec![PortMapping { protocol: "tcp", host_ip: None, host_port: 8081, container_port: 80 }];
    attachment.egress_bits_per_second = Some(8_000_000);
    let addresses = host.attach(&attachment).unwrap();
    assert_eq!(ask(&host.namespace, addresses[0], 80).unwrap().0, "pod");
    assert_eq!(ask(&host.namespace, ip("192.0.2.1"), 8081).unwrap().0, "pod", "by the port of the host");
    let kinds = |kind: &str| {
        let links = Rtnetlink::open_in(&host.namespace).unwrap().links().unwrap();
        links.iter().filter(|link| link.kind == kind).count()
    };
    assert_eq!(kinds("ifb"), 1, "the bandwidth plug-in was told the rate");
    host.detach("uid-1").unwrap();
    assert!(ask(&host.namespace, ip("192.0.2.1"), 8081).is_err());
    assert_eq!((host.leases(), host.links(), kinds("ifb")), (0, 0, 0));
}

#[test]
fn failures_are_told_in_the_plugins_words_and_taken_back() {
    let programs = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = programs.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    let log = programs.path().join("log").display().to_string();
    write(
        "first",
        &format!(
            r#"echo "$CNI_COMMAND first $CNI_IFNAME $CNI_ARGS" >> {log}; cat >> {log}; echo >> {log}; echo '{{"ips":[{{"address":"10.88.0.9/24"}}]}}'"#
        ),
    );
    write(
        "refuses",
        &format!(
            r#"echo "$CNI_COMMAND second" >> {log}; [ $CNI_COMMAND = DEL ] || {{ echo '{{"code":100,"msg":"no","details":"never"}}'; exit 1; }}"#
        ),
    );
    write("silent", "exit 7");
    write("noisy", "echo broken >&2; exit 1");
    write("nonsense", "echo nonsense");
    write("empty", "echo '{}'");
    let host = Host::new(programs.path());
    let pod = Pod::new();
    for (kind, wanted) in [
        ("refuses", r#"plugin type="refuses" name="test" failed (add): no; never"#),
        (
            "silent",
            r#"plugin type="silent" name="test" failed (add): netplugin failed with no error message: exit status: 7"#,
        ),
        ("noisy", r#"plugin type="noisy" name="test" failed (add): netplugin failed: "broken""#),
        ("nonsense", r#"plugin type="nonsense" name="test" failed (add): its answer is no JSON"#),
        ("empty", "failed to find network info for sandbox"),
        ("absent", r#"plugin type="absent" name="test" failed (add): failed to find plugin "absent" in path ["#),
    ] {
        host.configure(&format!(r#"{{"type":"first"}},{{"type":"{kind}"}}"#));
        let why = host.attach(&pod.attachment("uid-1")).unwrap_err().to_string();
        assert!(why.starts_with(wanted), "{kind}: {why}");
        // What cannot be taken back now (its plug-in refuses to delete as well) is not forgotten.
        host.configure(r#"{"type":"first"}"#);
        let _ = std::fs::remove_dir_all(host.directory.path().join("records"));
        std::fs::create_dir(host.directory.path().join("records")).unwrap();
    }
    let said = std::fs::read_to_string(&log).unwrap();
    let arguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=uid-1;K8S_POD_INFRA_CONTAINER_ID=uid-1;K8S_POD_UID=uid-1";
    assert!(said.starts_with(&format!("ADD first eth0 {arguments}\n")), "{said}");
    let order: Vec<&str> =
        said.lines().filter(|line| line.contains("first eth0") || line.ends_with("second")).take(4).collect();
    assert!(order[1] == "ADD second" && order[2] == "DEL second" && order[3].starts_with("DEL first"), "{order:?}");
    assert!(matches!(host.attach(&pod.attachment("bad/uid")), Err(Error::Id(_))));
}
