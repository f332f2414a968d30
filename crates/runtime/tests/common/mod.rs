//! What the tests share: a runtime of its own in a directory of its own, an image made from busybox, and a check that
//! nothing is left behind.
#![expect(clippy::unwrap_used, reason = "tests")]
#![expect(clippy::expect_used, clippy::print_stderr, reason = "tests")]

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use klynge_runtime::{ContainerSpec, ContainerStatus, Exit, Options, Pod, PodSpec, Runtime};
use sha2::Digest;

pub(crate) const IMAGE: &str = "test.local/busybox:1";
const APPLETS: &str = "sh cat echo ls sleep true false id env mount grep touch mknod dd wc head tail kill ps hostname stty \
                       tty printf seq yes date sync rm mkdir chmod chown ln test sed awk tr cut sort uniq du df ping ip \
                       nc su readlink nproc uname";

const DIRECTORY: &str = "KLYNGE_TEST_AGENT_DIRECTORY";
const CGROUP: &str = "KLYNGE_TEST_AGENT_CGROUP";

/// One machine under test.
pub(crate) struct Machine {
    pub(crate) runtime: Runtime,
    pub(crate) directory: PathBuf,
    pub(crate) cgroup: String,
}

pub(crate) fn unique() -> String {
    let mut bytes = [0u8; 6];
    getrandom::fill(&mut bytes).unwrap();
    bytes.iter().map(|it| format!("{it:02x}")).collect()
}

pub(crate) fn options(directory: &Path, cgroup: &str) -> Options {
    Options { cgroup_name: cgroup.to_owned(), ..Options::below(directory) }
}

impl Machine {
    pub(crate) async fn new() -> Machine {
        let name = format!("klynge-test-{}", unique());
        let directory = std::env::temp_dir().join(&name);
        let runtime = Runtime::open(options(&directory, &name)).await.unwrap();
        Machine { runtime, directory, cgroup: name }
    }

    /// In a process that is started as an agent: the machine whose agent it is.
    pub(crate) async fn of_agent() -> Option<Machine> {
        let (directory, cgroup) = (PathBuf::from(std::env::var_os(DIRECTORY)?), std::env::var(CGROUP).ok()?);
        let runtime = Runtime::open(options(&directory, &cgroup)).await.unwrap();
        Some(Machine { runtime, directory, cgroup })
    }

    /// Runs a test of this binary as the machine's agent, and kills it once the file `ready` is there.
    pub(crate) async fn kill_an_agent(&self, test: &str) {
        let mut agent = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(DIRECTORY, &self.directory)
            .env(CGROUP, &self.cgroup)
            .spawn()
            .unwrap();
        until("the agent's containers", || self.directory.join("ready").exists()).await;
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    pub(crate) async fn with_image() -> Machine {
        let machine = Machine::new().await;
        let archive = layout(&[busybox_layer()], Config::default(), Some(IMAGE));
        machine.runtime.images().import(std::io::Cursor::new(archive), None).await.unwrap();
        machine
    }

    pub(crate) async fn pod(&self) -> Pod {
        let uid = unique();
        let spec = PodSpec {
            uid,
            namespace: "default".into(),
            name: "test".into(),
            hostname: "test-host".into(),
            ..PodSpec::default()
        };
        self.runtime.create_pod(spec).await.unwrap()
    }

    pub(crate) fn log_path(&self, name: &str) -> PathBuf {
        self.directory.join("logs").join(format!("{name}.log"))
    }

    /// A container that runs a shell script.
    pub(crate) fn script(&self, name: &str, script: &str) -> ContainerSpec {
        ContainerSpec {
            name: name.into(),
            image: IMAGE.into(),
            command: vec!["sh".into(), "-c".into(), script.into()],
            log_path: Some(self.log_path(name)),
            no_new_privileges: true,
            ..ContainerSpec::default()
        }
    }

    /// Runs a container to its end: how it ended, and what it wrote.
    pub(crate) async fn run(&self, pod: &Pod, spec: ContainerSpec) -> (Exit, String) {
        let log = spec.log_path.clone().unwrap();
        let _ = fs::remove_file(&log);
        let container = pod.start_container(spec).await.unwrap();
        let exit = within(pod.wait(&container.id)).await.unwrap();
        pod.remove_container(&container.id).await.unwrap();
        (exit, log_text(&log))
    }

    /// Removes everything and looks that it is gone.
    pub(crate) async fn finish(self) {
        self.runtime.purge().await.unwrap();
        let left: Vec<PathBuf> = groups(&self.cgroup);
        assert!(left.is_empty(), "control groups are left: {left:?}");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&self.cgroup), "mounts are left");
        for name in ["images", "layers", "run"] {
            assert!(!self.directory.join(name).exists(), "{name} is left");
        }
        fs::remove_dir_all(&self.directory).ok();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the failed test leaves {} and control groups {}", self.directory.display(), self.cgroup);
            // Best effort, so that a failed test does not disturb the next one.
            for group in groups(&self.cgroup) {
                kill_tree(&group);
            }
        }
    }
}

fn kill_tree(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten().filter(|it| it.path().is_dir()) {
        kill_tree(&entry.path());
    }
    for pid in fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines() {
        if let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Control groups of this name in any hierarchy.
pub(crate) fn groups(name: &str) -> Vec<PathBuf> {
    fn search(directory: &Path, name: &str, depth: usize, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if !entry.file_type().is_ok_and(|it| it.is_dir()) {
                continue;
            }
            if entry.file_name() == name {
                found.push(path);
            } else if depth < 4 {
                search(&path, name, depth + 1, found);
            }
        }
    }
    let mut found = Vec::new();
    search(Path::new("/sys/fs/cgroup"), name, 0, &mut found);
    found
}

/// A deadline for what must happen soon.
pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), work).await.unwrap()
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The messages of a log, partial lines joined; stderr lines are marked.
pub(crate) fn log_text(path: &Path) -> String {
    let mut text = String::new();
    for line in fs::read_to_string(path).unwrap_or_default().lines() {
        let mut parts = line.splitn(4, ' ');
        let (time, stream, tag) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
        assert!(time.len() == 30 && time.ends_with('Z') && time.parse::<jiff::Timestamp>().is_ok(), "{line}");
        if stream == "stderr" {
            text.push_str("E:");
        }
        text.push_str(parts.next().unwrap_or_default());
        if tag == "F" {
            text.push('\n');
        }
    }
    text
}

pub(crate) fn is_running(container: &ContainerStatus) -> Option<i32> {
    match container.state {
        klynge_runtime::ContainerState::Running { pid, .. } => Some(pid),
        _ => None,
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|it| format!("{it:02x}")).collect()
}

/// A layer being written.
pub(crate) struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    pub(crate) fn new() -> Layer {
        Layer(tar::Builder::new(Vec::new()))
    }
    fn header(kind: tar::EntryType, mode: u32, owner: (u64, u64), size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner.0);
        header.set_gid(owner.1);
        header.set_size(size);
        header.set_mtime(1_700_000_000);
        header
    }
    pub(crate) fn directory(mut self, path: &str, mode: u32) -> Layer {
        let mut header = Layer::header(tar::EntryType::Directory, mode, (0, 0), 0);
        self.0.append_data(&mut header, path, std::io::empty()).unwrap();
        self
    }
    pub(crate) fn file(self, path: &str, mode: u32, content: &[u8]) -> Layer {
        self.owned_file(path, mode, (0, 0), content)
    }
    pub(crate) fn owned_file(mut self, path: &str, mode: u32, owner: (u64, u64), content: &[u8]) -> Layer {
        let mut header = Layer::header(tar::EntryType::Regular, mode, owner, content.len() as u64);
        self.0.append_data(&mut header, path, content).unwrap();
        self
    }
    pub(crate) fn symlink(mut self, path: &str, target: &str) -> Layer {
        let mut header = Layer::header(tar::EntryType::Symlink, 0o777, (0, 0), 0);
        self.0.append_link(&mut header, path, target).unwrap();
        self
    }
    pub(crate) fn hard_link(mut self, path: &str, target: &str) -> Layer {
        let mut header = Layer::header(tar::EntryType::Link, 0o644, (0, 0), 0);
        self.0.append_link(&mut header, path, target).unwrap();
        self
    }
    /// An entry whose name the archive library would refuse to write.
    pub(crate) fn raw_file(mut self, path: &[u8], content: &[u8]) -> Layer {
        let mut header = Layer::header(tar::EntryType::Regular, 0o644, (0, 0), content.len() as u64);
        header.as_mut_bytes()[..path.len()].copy_from_slice(path);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }
    pub(crate) fn finish(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

pub(crate) fn busybox_layer() -> Vec<u8> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].iter().find_map(|it| fs::read(it).ok());
    let busybox = busybox.expect("tests need a static busybox: apt-get install busybox-static");
    let mut layer = Layer::new()
        .directory("bin", 0o755)
        .directory("etc", 0o755)
        .directory("tmp", 0o1777)
        .directory("root", 0o700)
        .file("bin/busybox", 0o755, &busybox)
        .file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv:/bin/sh\n")
        .file("etc/group", 0o644, b"root:x:0:\nwww:x:34:\nlog:x:40:web\n");
    for applet in APPLETS.split_whitespace() {
        layer = layer.symlink(&format!("bin/{applet}"), "busybox");
    }
    layer.finish()
}

#[derive(Default)]
pub(crate) struct Config {
    pub(crate) env: Vec<&'static str>,
    pub(crate) entrypoint: Vec<&'static str>,
    pub(crate) cmd: Vec<&'static str>,
    pub(crate) user: &'static str,
    pub(crate) working_directory: &'static str,
    pub(crate) volumes: Vec<&'static str>,
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The blobs of an image: digest digits to bytes, and the digest of its manifest.
pub(crate) fn blobs(layers: &[Vec<u8>], config: &Config, compress: bool) -> (BTreeMap<String, Vec<u8>>, String) {
    let mut blobs = BTreeMap::new();
    let mut put = |bytes: Vec<u8>| {
        let digest = sha256(&bytes);
        blobs.insert(digest.clone(), bytes);
        digest
    };
    let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let diff_ids: Vec<String> = layers.iter().map(|it| format!("sha256:{}", sha256(it))).collect();
    let document = serde_json::json!({
        "architecture": architecture, "os": "linux",
        "config": {"Env": config.env, "Entrypoint": config.entrypoint, "Cmd": config.cmd, "User": config.user,
                   "WorkingDir": config.working_directory,
                   "Volumes": config.volumes.iter().map(|it| (*it, serde_json::json!({}))).collect::<BTreeMap<_, _>>()},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let document = serde_json::to_vec(&document).unwrap();
    let document_size = document.len();
    let document = put(document);
    let layers: Vec<serde_json::Value> = layers
        .iter()
        .map(|it| {
            let bytes = if compress { gzip(it) } else { it.clone() };
            let size = bytes.len();
            let kind = if compress { "tar+gzip" } else { "tar" };
            serde_json::json!({"mediaType": format!("application/vnd.oci.image.layer.v1.{kind}"), "size": size,
                               "digest": format!("sha256:{}", put(bytes))})
        })
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "size": document_size,
                   "digest": format!("sha256:{document}")},
        "layers": layers,
    });
    let manifest = put(serde_json::to_vec(&manifest).unwrap());
    (blobs, manifest)
}

/// An OCI layout archive.
pub(crate) fn layout(layers: &[Vec<u8>], config: Config, tag: Option<&str>) -> Vec<u8> {
    let (blobs, manifest) = blobs(layers, &config, true);
    let size = blobs[&manifest].len();
    let annotations = tag.map(|tag| serde_json::json!({"io.containerd.image.name": tag})).unwrap_or_default();
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "size": size,
        "digest": format!("sha256:{manifest}"),
        "annotations": if annotations.is_null() { serde_json::json!({}) } else { annotations }}]});
    let mut archive = Layer::new().file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#).file(
        "index.json",
        0o644,
        &serde_json::to_vec(&index).unwrap(),
    );
    for (digest, bytes) in &blobs {
        archive = archive.file(&format!("blobs/sha256/{digest}"), 0o644, bytes);
    }
    archive.finish()
}
