//! What the machine is and has, read from the kernel.

use rustix::fs::statvfs;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// What does not change while the machine runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// CPUs.
    pub cpus: i64,
    /// Bytes of memory.
    pub memory_bytes: i64,
    /// Bytes of the file system of the data directory.
    pub ephemeral_bytes: i64,
    /// The machine id.
    pub machine_id: String,
    /// The product's uuid, or the machine id.
    pub system_uuid: String,
    /// The boot id.
    pub boot_id: String,
    /// The kernel's release.
    pub kernel: String,
    /// The operating system's name.
    pub os_image: String,
}

/// Room on a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes in all.
    pub total_bytes: u64,
    /// Bytes that may still be used.
    pub available_bytes: u64,
    /// Inodes in all; 0 where the file system has no fixed number.
    pub total_inodes: u64,
    /// Inodes that are free.
    pub free_inodes: u64,
}

fn line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// The number behind `name:` in /proc/meminfo, in bytes.
fn memory(name: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let number: u64 = rest.trim().trim_end_matches("kB").trim().parse().ok()?;
    number.checked_mul(1024)
}

/// Memory of a control group, as the root of this control group namespace shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct GroupMemory {
    limit_bytes: u64,
    /// In use, without what the kernel gives back when it is asked to.
    used_bytes: u64,
}

impl GroupMemory {
    /// Where this process lives in a namespace with a limit (a container, a node of `klynge dev`); a machine's own root group has none.
    fn read(top: &Path) -> Option<Self> {
        let number = |path: &Path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
        let (directory, limit, used, cache) = match number(&top.join("memory.max")) {
            Some(limit) => (top.to_owned(), limit, "memory.current", "inactive_file"),
            None => {
                let directory = top.join("memory");
                let limit = number(&directory.join("memory.limit_in_bytes"))?;
                (directory, limit, "memory.usage_in_bytes", "total_inactive_file")
            }
        };
        let statistics = fs::read_to_string(directory.join("memory.stat")).unwrap_or_default();
        let cached = statistics.lines().find_map(|line| line.strip_prefix(cache)?.trim().parse::<u64>().ok());
        let used = number(&directory.join(used)).unwrap_or(0);
        Some(GroupMemory { limit_bytes: limit, used_bytes: used.saturating_sub(cached.unwrap_or(0)) })
    }

    fn here() -> Option<Self> {
        Self::read(Path::new("/sys/fs/cgroup"))
    }
}

/// The machine's memory, or the smaller share that a control group leaves of it.
fn total_memory() -> Option<u64> {
    let machine = memory("MemTotal")?;
    Some(GroupMemory::here().map_or(machine, |group| machine.min(group.limit_bytes)))
}

impl Facts {
    /// Reads them.
    #[must_use]
    pub fn read(data_directory: &Path) -> Self {
        let machine_id = line("/etc/machine-id");
        let uuid = line("/sys/class/dmi/id/product_uuid");
        let release: BTreeMap<String, String> = fs::read_to_string("/etc/os-release")
            .unwrap_or_default()
            .lines()
            .filter_map(|line| {
                line.split_once('=').map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned()))
            })
            .collect();
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Facts {
            cpus: i64::try_from(cpus).unwrap_or(1),
            memory_bytes: total_memory().and_then(|bytes| i64::try_from(bytes).ok()).unwrap_or(0),
            ephemeral_bytes: Space::of(data_directory)
                .map_or(0, |space| i64::try_from(space.total_bytes).unwrap_or(i64::MAX)),
            system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid },
            machine_id,
            boot_id: line("/proc/sys/kernel/random/boot_id"),
            kernel: line("/proc/sys/kernel/osrelease"),
            os_image: release.get("PRETTY_NAME").cloned().unwrap_or_else(|| "Linux".into()),
        }
    }

    /// Bytes of memory that are available now.
    #[must_use]
    pub fn available_memory_bytes() -> Option<u64> {
        let machine = memory("MemAvailable")?;
        Some(
            GroupMemory::here()
                .map_or(machine, |group| machine.min(group.limit_bytes.saturating_sub(group.used_bytes))),
        )
    }

    /// Process ids in use and possible.
    #[must_use]
    pub fn process_ids() -> Option<(u64, u64)> {
        let load = fs::read_to_string("/proc/loadavg").ok()?;
        let used = load.split_whitespace().nth(3)?.split('/').nth(1)?.parse().ok()?;
        let most = line("/proc/sys/kernel/pid_max").parse().ok()?;
        Some((used, most))
    }
}

impl Space {
    /// The room where `path` is.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let found = statvfs(path).ok()?;
        Some(Space {
            total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
            available_bytes: found.f_bavail.saturating_mul(found.f_frsize),
            total_inodes: found.f_files,
            free_inodes: found.f_favail,
        })
    }

    /// Used bytes in percent of what may be used.
    #[must_use]
    pub fn used_percent(&self) -> u64 {
        let used = self.total_bytes.saturating_sub(self.available_bytes);
        used.saturating_mul(100).checked_div(self.total_bytes).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_limit_of_either_version_is_found() {
        let top = tempfile::tempdir().unwrap();
        assert_eq!(GroupMemory::read(top.path()), None);
        fs::create_dir(top.path().join("memory")).unwrap();
        for (file, text) in [
            ("memory/memory.limit_in_bytes", "1000\n"),
            ("memory/memory.usage_in_bytes", "700\n"),
            ("memory/memory.stat", "inactive_file 1\ntotal_inactive_file 300\n"),
        ] {
            fs::write(top.path().join(file), text).unwrap();
        }
        assert_eq!(GroupMemory::read(top.path()), Some(GroupMemory { limit_bytes: 1000, used_bytes: 400 }));
        for (file, text) in
            [("memory.max", "500\n"), ("memory.current", "90\n"), ("memory.stat", "anon 50\ninactive_file 100\n")]
        {
            fs::write(top.path().join(file), text).unwrap();
        }
        assert_eq!(GroupMemory::read(top.path()), Some(GroupMemory { limit_bytes: 500, used_bytes: 0 }));
        fs::write(top.path().join("memory.max"), "max\n").unwrap();
        fs::remove_dir_all(top.path().join("memory")).unwrap();
        assert_eq!(GroupMemory::read(top.path()), None);
    }
}
