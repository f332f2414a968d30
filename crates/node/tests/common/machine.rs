//! A machine of its own: a real runtime with an image of busybox, and a real pod network in a namespace of its own.

use super::MemoryApi;
use klynge_node::adapters::{NetworkAdapter, RuntimeAdapter};
use klynge_node::volumes::HostDns;
use klynge_node::{Node, Options};
use network::netlink::NetworkNamespace;
use sha2::Digest;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) const IMAGE: &str = "test.local/busybox:1";
const APPLETS: &str =
    "sh cat echo ls sleep true false id env mount grep touch tail kill hostname nc printf ip wget httpd";

pub(crate) struct TestMachine {
    pub(crate) name: String,
    pub(crate) directory: PathBuf,
    namespace: NetworkNamespace,
    runtime: Option<runtime::Runtime>,
    agents: Vec<tokio::runtime::Runtime>,
}

pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn digest(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Archive(tar::Builder<Vec<u8>>);

impl Archive {
    fn add(&mut self, kind: tar::EntryType, path: &str, mode: u32, content: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        self.0.append_data(&mut header, path, content).unwrap();
    }
}

/// An OCI layout with busybox in one layer.
fn image() -> Vec<u8> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].iter().find_map(|path| std::fs::read(path).ok());
    let busybox = busybox.expect("this test needs a static busybox: apt-get install busybox-static");
    let mut layer = Archive(tar::Builder::new(Vec::new()));
    for (path, mode) in [("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777)] {
        layer.add(tar::EntryType::Directory, path, mode, &[]);
    }
    layer.add(tar::EntryType::Regular, "bin/busybox", 0o755, &busybox);
    for applet in APPLETS.split(' ') {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        layer.0.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
    }
    let layer = layer.0.into_inner().unwrap();
    let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let config = serde_json::to_vec(&serde_json::json!({"architecture": architecture, "os": "linux",
        "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", digest(&layer))]}}))
    .unwrap();
    let manifest = serde_json::to_vec(&serde_json::json!({"schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "size": config.len(), "digest": format!("sha256:{}", digest(&config))},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "size": layer.len(), "digest": format!("sha256:{}", digest(&layer))}]}))
    .unwrap();
    let index = serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "size": manifest.len(),
        "digest": format!("sha256:{}", digest(&manifest)), "annotations": {"io.containerd.image.name": IMAGE}}]}))
    .unwrap();
    let mut archive = Archive(tar::Builder::new(Vec::new()));
    archive.add(tar::EntryType::Regular, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#);
    archive.add(tar::EntryType::Regular, "index.json", 0o644, &index);
    for blob in [layer, config, manifest] {
        let path = format!("blobs/sha256/{}", digest(&blob));
        archive.add(tar::EntryType::Regular, &path, 0o644, &blob);
    }
    archive.0.into_inner().unwrap()
}

impl TestMachine {
    pub(crate) async fn new(name: &str) -> Self {
        Self::on_disk(name, None).await
    }

    /// A machine whose disk has only so many bytes.
    pub(crate) async fn small(name: &str, megabytes: u64) -> Self {
        Self::on_disk(name, Some(megabytes)).await
    }

    async fn on_disk(name: &str, megabytes: Option<u64>) -> Self {
        let name = format!("klynge-node-test-{name}-{}", std::process::id());
        let directory = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&directory).unwrap();
        if let Some(megabytes) = megabytes {
            let options = std::ffi::CString::new(format!("size={megabytes}m")).unwrap();
            let flags = rustix::mount::MountFlags::empty();
            rustix::mount::mount("tmpfs", &directory, "tmpfs", flags, options.as_c_str()).unwrap();
        }
        let namespace = NetworkNamespace::create().unwrap();
        let mut machine = TestMachine { name, directory, namespace, runtime: None, agents: Vec::new() };
        let runtime = machine.open_runtime().await;
        runtime.images().import(std::io::Cursor::new(image()), None).await.unwrap();
        machine.runtime = Some(runtime);
        machine
    }

    async fn open_runtime(&self) -> runtime::Runtime {
        let options = runtime::Options {
            cgroup_name: self.name.clone(),
            ..runtime::Options::below(self.directory.join("runtime"))
        };
        runtime::Runtime::open(options).await.unwrap()
    }

    /// Starts an agent on this machine, as after a restart each time.
    pub(crate) async fn start(&mut self, api: &MemoryApi) -> Node {
        let runtime = self.open_runtime().await;
        self.runtime = Some(runtime.clone());
        let network = network::pod_net::PodNetwork::open(network::pod_net::Options {
            namespace: self.namespace.clone(),
            pod_ranges: vec!["10.244.0.0/24".parse().unwrap()],
            cluster_ranges: vec!["10.244.0.0/16".parse().unwrap()],
            service_ranges: vec!["10.96.0.0/16".parse().unwrap()],
            node_addresses: Vec::new(),
            directory: Some(self.directory.join("network")),
            mtu_bytes: None,
        })
        .unwrap();
        let options = Options {
            client: api.client(),
            containers: Arc::new(RuntimeAdapter::new(runtime)),
            network: Arc::new(NetworkAdapter::new(network)),
            services: None,
            policies: None,
            dns: None,
            announcer: None,
            subnets: Vec::new(),
            name: "n1".into(),
            hostname: "n1".into(),
            addresses: vec!["192.0.2.1".parse().unwrap()],
            labels: BTreeMap::new(),
            data_directory: self.directory.join("agent"),
            log_directory: self.directory.join("logs"),
            pod_ranges: vec!["10.244.0.0/24".into()],
            pods_max: 110,
            endpoint_port: 0,
            resolvers: HostDns {
                cluster_servers: vec!["10.96.0.10".parse().unwrap()],
                cluster_domain: "cluster.local".into(),
                ..HostDns::default()
            },
            pulls_max: 4,
            starts_max: 8,
            encryption: None,
            encryption_health: None,
            registers_again: true,
            contact: None,
            thresholds: Default::default(),
            // The fullness of the disk that the tests run on is not part of them.
            image_thresholds: klynge_node::machine::ImageThresholds { high_percent: 100, low_percent: 100 },
            version: "v1.37.0+klynge".into(),
        };
        // An agent has threads of its own, so that what is left of it when it is stopped can be counted.
        let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let node = threads.spawn(Node::start(options)).await.unwrap().unwrap();
        self.agents.push(threads);
        node
    }

    /// Stops the agent that was started last, and looks that none of its tasks goes on.
    pub(crate) async fn stop(&mut self, node: Node) {
        node.stop().await;
        drop(node);
        let threads = self.agents.pop().unwrap();
        // What the runtime's handles do ends with them, a moment later.
        until("the end of the agent's tasks", || threads.metrics().num_alive_tasks() == 0).await;
        tokio::task::spawn_blocking(move || threads.shutdown_timeout(Duration::from_secs(10))).await.unwrap();
    }

    /// Removes everything and looks that it is gone.
    pub(crate) async fn finish(mut self) {
        self.runtime.take().unwrap().purge().await.unwrap();
        // That of a small machine is the test's own.
        let _ = rustix::mount::unmount(&self.directory, rustix::mount::UnmountFlags::empty());
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&self.name), "mounts are left");
        // What the stopped agent was writing on a blocking thread may still come to its end.
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Err(error) = std::fs::remove_dir_all(&self.directory) {
            assert!(Instant::now() < deadline, "{} cannot be removed: {error}", self.directory.display());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
