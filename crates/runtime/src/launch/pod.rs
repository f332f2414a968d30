//! The program that the shim carries out for itself: the pod's namespaces, host name, shared memory and kernel parameters.

use std::path::Path;

use super::{Program, StepName};
use crate::{cgroup::Cgroups, spec::PodSpec, wire};

const CLONE_NEWNS: u64 = 0x0002_0000;
const CLONE_NEWUTS: u64 = 0x0400_0000;
const CLONE_NEWIPC: u64 = 0x0800_0000;
const CLONE_NEWNET: u64 = 0x4000_0000;
const MS_NOSUID: u64 = 2;
const MS_NODEV: u64 = 4;
const MS_NOEXEC: u64 = 8;
const MS_REC: u64 = 0x4000;
const MS_SLAVE: u64 = 1 << 19;
const SHM_SIZE_BYTES: u64 = 64 << 20;

/// Writes the program.
pub(crate) fn pod(spec: &PodSpec, directory: &Path, cgroups: &Cgroups) -> Program {
    let mut program = Program::new();
    for file in cgroups.shim_entry().0 {
        program.plain(wire::OP_WRITE_FILE, 0, "entering the control group").text(&file.to_string_lossy()).bytes(b"0");
    }
    program
        .plain(wire::OP_WRITE_FILE, wire::STEP_OPTIONAL, "lowering the OOM score")
        .text("/proc/self/oom_score_adj")
        .bytes(b"-998");
    let change = program.plain(wire::OP_CHANGE_DIRECTORY, 0, "entering the pod's directory");
    drop(change.text(&directory.to_string_lossy()));
    let mut namespaces = CLONE_NEWNS;
    if !spec.host_network {
        namespaces |= CLONE_NEWNET | CLONE_NEWUTS;
    }
    if !spec.host_ipc {
        namespaces |= CLONE_NEWIPC;
    }
    program.plain(wire::OP_UNSHARE, 0, "making namespaces").number(namespaces);
    let slave = program.plain(wire::OP_MOUNT, 0, "separating mounts from the host's");
    drop(slave.text("none").text("/").text("").number(MS_REC | MS_SLAVE).text(""));
    if !spec.host_ipc {
        let name = StepName::Mount { source: "shm".to_owned(), target: "/dev/shm".to_owned() };
        let size = spec.shm_size_bytes.unwrap_or(SHM_SIZE_BYTES);
        program
            .step(wire::OP_MOUNT, 0, name)
            .text("shm")
            .text(&directory.join("shm").to_string_lossy())
            .text("tmpfs")
            .number(MS_NOSUID | MS_NODEV | MS_NOEXEC)
            .text(&format!("mode=1777,size={size}"));
    }
    if !spec.host_network {
        program.plain(wire::OP_HOSTNAME, 0, "setting the host name").bytes(spec.hostname.as_bytes());
        drop(program.plain(wire::OP_LOOPBACK_UP, 0, "bringing lo up"));
    }
    for (name, value) in &spec.sysctls {
        let path = format!("/proc/sys/{}", sysctl_path(name));
        program
            .step(wire::OP_WRITE_FILE, 0, StepName::Other(format!("setting sysctl {name}={value}")))
            .text(&path)
            .bytes(value.as_bytes());
    }
    program
}

/// Dots separate the parts, unless a slash comes first; then slashes do, and dots stand for themselves.
fn sysctl_path(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes().get(at) == Some(&b'.') => name
            .chars()
            .map(|it| {
                if it == '.' {
                    '/'
                } else if it == '/' {
                    '.'
                } else {
                    it
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::sysctl_path;

    #[test]
    fn both_spellings() {
        for (name, path) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/conf/eth0.1/forwarding", "net/ipv4/conf/eth0.1/forwarding"),
            ("net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"),
        ] {
            assert_eq!(sysctl_path(name), path);
        }
    }
}
