//! Measures create + start + exit + destroy of a container in a pod of its own, beside crun and runc where they are
//! installed, and what an idle shim costs. Prints a table, and one line of JSON at the end. Needs root and busybox.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

#[expect(dead_code, reason = "not every test uses everything")]
#[path = "../tests/common/mod.rs"]
mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use common::Machine;
use klynge_runtime::Pod;

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}

async fn ours(machine: &Machine, whole_pod: bool, shared: &Pod) -> Duration {
    let start = Instant::now();
    let own;
    let pod = if whole_pod {
        own = machine.pod().await;
        &own
    } else {
        shared
    };
    let mut spec = machine.script("bench", "");
    spec.command = vec!["/bin/true".into()];
    let container = pod.start_container(spec).await.unwrap();
    pod.wait(&container.id).await.unwrap();
    if whole_pod {
        pod.destroy().await.unwrap();
    } else {
        pod.remove_container(&container.id).await.unwrap();
    }
    start.elapsed()
}

/// A shell in a mount namespace of its own, in which crun, too, accepts hybrid control groups.
struct Shell {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Shell {
    fn new() -> Shell {
        let script = "umount /sys/fs/cgroup/unified 2>/dev/null; exec sh";
        let mut child = Command::new("unshare")
            .args(["--mount", "sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Shell { child, input, output }
    }

    /// `run` of an OCI runtime does all four; its bundle has the same namespaces and confinement but no image.
    fn run(&mut self, program: &str, bundle: &Path) -> Option<Duration> {
        let id = format!("bench-{}", common::unique());
        let start = Instant::now();
        writeln!(self.input, "{program} run --bundle {} {id} </dev/null >/dev/null; echo $?", bundle.display())
            .unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        (line.trim() == "0").then(|| start.elapsed())
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn bundle(directory: &Path) -> std::path::PathBuf {
    let bundle = directory.join("bundle");
    fs::create_dir_all(bundle.join("rootfs")).unwrap();
    tar::Archive::new(std::io::Cursor::new(common::busybox_layer())).unpack(bundle.join("rootfs")).unwrap();
    let made = Command::new("runc").arg("spec").current_dir(&bundle).status();
    if made.is_ok_and(|it| it.success()) {
        let path = bundle.join("config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config["process"]["terminal"] = false.into();
        config["process"]["args"] = serde_json::json!(["/bin/true"]);
        fs::write(path, serde_json::to_vec(&config).unwrap()).unwrap();
    }
    bundle
}

fn memory_kib(pid: i32, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let of = |line: &str| line.split_whitespace().nth(1).and_then(|it| it.parse::<u64>().ok()).unwrap_or(0);
    text.lines().filter(|line| line.starts_with(key)).map(of).sum()
}

#[tokio::main]
async fn main() {
    let count = if std::env::args().any(|it| it == "--quick") { 30 } else { 100 };
    let machine = Machine::with_image().await;
    let shared = machine.pod().await;
    let bundle = bundle(&machine.directory);
    let (mut whole, mut container, mut crun, mut runc) = (vec![], vec![], vec![], vec![]);
    let mut shell = Shell::new();
    for _ in 0..count {
        whole.push(ours(&machine, true, &shared).await);
        container.push(ours(&machine, false, &shared).await);
        crun.extend(shell.run("crun", &bundle));
        runc.extend(shell.run("runc", &bundle));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut idle = machine.script("idle", "");
    idle.command = vec!["sleep".into(), "1000".into()];
    let idle = shared.start_container(idle).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let pid = shared.pid();
    let (private, pss) = (memory_kib(pid, "Private_"), memory_kib(pid, "Pss:"));
    shared.remove_container(&idle.id).await.unwrap();
    shared.destroy().await.unwrap();
    let (whole, container) = (median(whole), median(container));
    println!("{:<42} {whole:>8.2} ms", "pod + container: create, start, exit, destroy");
    println!("{:<42} {container:>8.2} ms", "container in a pod that is there");
    let mut figures = serde_json::json!({"bench": "container", "samples": count, "pod_and_container_ms": whole,
        "container_ms": container, "shim_private_kib": private, "shim_pss_kib": pss});
    for (name, times) in [("crun", crun), ("runc", runc)] {
        if times.is_empty() {
            println!("{name:<42} not measured (absent, or refuses this machine's control groups)");
        } else {
            let time = median(times);
            println!("{name:<42} {time:>8.2} ms");
            figures[format!("{name}_ms")] = time.into();
        }
    }
    println!("{:<42} {private:>8} KiB (PSS {pss} KiB)", "an idle shim, private");
    machine.finish().await;
    println!("{figures}");
}
