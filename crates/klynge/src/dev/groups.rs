//! Control groups of a cluster's nodes: one directory per hierarchy on v1, one in all on v2, below the group that the command runs in.

use super::boot::{CgroupMount, Entry};
use crate::cli::Failure;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The group of all clusters.
const BASE: &str = "klynge-dev";
/// The v2 controllers that nodes may use, where they are there.
const UNIFIED_CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "io", "memory", "pids", "hugetlb"];
/// Processes are gone after this time, or something holds them in the kernel.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(2);
const CPU_PERIOD_US: u64 = 100_000;
/// A cluster's groups are never this deep.
const DEPTH_MAX: usize = 32;

/// A hierarchy of control groups as this machine has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hierarchy {
    /// The v1 controllers or the `name=`; empty for v2.
    pub(super) controllers: Vec<String>,
    /// Where it is mounted.
    pub(super) mount: PathBuf,
    /// The group that clusters are nested below.
    pub(super) parent: PathBuf,
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(path).and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()))
}

fn make(path: &Path) -> Result<(), Failure> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(Failure::Failed(format!(
            "cannot make the control group {}: {error}; is this a container without a cgroup of its own that may be written?",
            path.display()
        ))),
        _ => Ok(()),
    }
}

/// Groups that systemd made for services and sessions end with those, so ours do not lie below them.
fn outliving(own: &str) -> &str {
    let of_systemd = own.split('/').any(|part| [".slice", ".service", ".scope"].iter().any(|end| part.ends_with(end)));
    if of_systemd { "/" } else { own }
}

/// The hierarchies that are mounted, from the text of /proc/self/mountinfo and /proc/self/cgroup.
fn parse(mountinfo: &str, own: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((head, tail)) = line.split_once(" - ") else { continue };
        let mut head = head.split(' ').skip(3);
        let (Some(root), Some(mount)) = (head.next(), head.next()) else { continue };
        let mut tail = tail.split(' ');
        let controllers: Vec<String> = match tail.next() {
            Some("cgroup2") => Vec::new(),
            Some("cgroup") => {
                let options = tail.nth(1).unwrap_or_default().split(',');
                let is_controller = |option: &&str| {
                    !matches!(
                        *option,
                        "rw" | "ro" | "xattr" | "noprefix" | "clone_children" | "cpuset_v2_mode" | "favordynmods"
                    ) && !option.starts_with("release_agent=")
                };
                options.filter(is_controller).map(str::to_owned).collect()
            }
            _ => continue,
        };
        if found.iter().any(|one| one.controllers == controllers) {
            continue; // mounted a second time elsewhere
        }
        let group = own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, listed, path) = (parts.next()?, parts.next()?, parts.next()?);
            let same = match controllers.first() {
                None => listed.is_empty(),
                Some(first) => listed.split(',').any(|one| one == first),
            };
            same.then_some(path)
        });
        let Some(group) = group else { continue };
        let parent = outliving(group);
        let inside = parent.strip_prefix(root.trim_end_matches('/')).unwrap_or(parent);
        let mount = PathBuf::from(mount);
        found.push(Hierarchy { controllers, parent: mount.join(inside.trim_start_matches('/')), mount });
    }
    found
}

/// Looks at the machine.
pub(super) fn detect() -> Result<Vec<Hierarchy>, Failure> {
    let read =
        |path: &str| fs::read_to_string(path).map_err(|error| Failure::Failed(format!("cannot read {path}: {error}")));
    let found = parse(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?);
    if found.is_empty() {
        return Err(Failure::Failed(
            "no control groups are mounted; mount cgroup2 on /sys/fs/cgroup and try again".to_owned(),
        ));
    }
    Ok(found)
}

impl Hierarchy {
    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|one| one == controller)
    }

    fn is_unified(&self) -> bool {
        self.controllers.is_empty()
    }

    /// v2 with controllers, not the v2 that stands empty beside v1.
    fn is_whole(&self) -> bool {
        let controllers = fs::read_to_string(self.mount.join("cgroup.controllers")).unwrap_or_default();
        self.is_unified() && controllers.split_whitespace().any(|one| one == "memory" || one == "pids")
    }

    /// The group of a cluster.
    fn cluster(&self, name: &str) -> PathBuf {
        self.parent.join(BASE).join(name)
    }

    /// The group of a node.
    fn node(&self, name: &str, number: u16) -> PathBuf {
        self.cluster(name).join(number.to_string())
    }

    /// Lets the children of a group use the controllers that it has.
    fn delegate(&self, group: &Path) -> io::Result<()> {
        let available = fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
        for controller in UNIFIED_CONTROLLERS {
            if !available.split_whitespace().any(|one| one == controller) {
                continue;
            }
            match write(&group.join("cgroup.subtree_control"), &format!("+{controller}")) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => return Err(error),
                // A controller that cannot be handed on (real-time processes) is one that nodes do without.
                _ => {}
            }
        }
        Ok(())
    }

    fn make_node(&self, name: &str, number: u16) -> Result<PathBuf, Failure> {
        let (cluster, node) = (self.cluster(name), self.node(name, number));
        if self.is_whole() && self.delegate(&self.parent).is_err() {
            // A group that is not the root may not hold processes and delegate: they move one level down.
            let leaf = self.parent.join("klynge-init");
            make(&leaf)?;
            for process in fs::read_to_string(self.parent.join("cgroup.procs")).unwrap_or_default().lines() {
                let _ = write(&leaf.join("cgroup.procs"), process); // it may have ended
            }
            self.delegate(&self.parent).map_err(|error| {
                Failure::Failed(format!("cannot hand control groups on from {}: {error}", self.parent.display()))
            })?;
        }
        for group in [&self.parent.join(BASE), &cluster, &node] {
            make(group)?;
            if self.has("cpuset") {
                inherit_cpuset(group);
            }
            if self.is_whole() && *group != node {
                self.delegate(group).map_err(|error| {
                    Failure::Failed(format!("cannot hand control groups on from {}: {error}", group.display()))
                })?;
            }
        }
        Ok(node)
    }
}

/// A v1 cpuset that names no CPUs takes no processes.
fn inherit_cpuset(group: &Path) {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = fs::read_to_string(group.join(file)).unwrap_or_default();
        if own.trim().is_empty()
            && let Some(parent) = group.parent()
        {
            let inherited = fs::read_to_string(parent.join(file)).unwrap_or_default();
            let _ = write(&group.join(file), inherited.trim()); // entering it says what is wrong
        }
    }
}

/// Limits of one node.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Limits {
    pub(super) cpus_milli: Option<u32>,
    pub(super) memory_bytes: Option<u64>,
}

/// Makes a node's groups, and says how its first process enters them.
pub(super) fn make_node(
    hierarchies: &[Hierarchy],
    name: &str,
    number: u16,
    limits: Limits,
) -> Result<(Vec<Entry>, Vec<CgroupMount>), Failure> {
    let (mut entries, mut mounts) = (Vec::new(), Vec::new());
    for hierarchy in hierarchies {
        let group = hierarchy.make_node(name, number)?;
        limit(hierarchy, &group, limits)?;
        entries.push(Entry {
            file: group.join(if hierarchy.is_unified() { "cgroup.procs" } else { "tasks" }),
            // A v2 group hands its controllers on only while no process is in itself.
            leaf: hierarchy.is_whole().then(|| group.join("init")),
        });
        mounts.push(CgroupMount { controllers: hierarchy.controllers.clone(), whole: hierarchy.is_whole() });
    }
    Ok((entries, mounts))
}

fn limit(hierarchy: &Hierarchy, group: &Path, limits: Limits) -> Result<(), Failure> {
    let set = |file: &str, text: String| {
        write(&group.join(file), &text)
            .map_err(|error| Failure::Failed(format!("cannot write {text} to {}: {error}", group.join(file).display())))
    };
    let quota = |milli: u32| u64::from(milli) * CPU_PERIOD_US / 1000;
    if let Some(milli) = limits.cpus_milli {
        if hierarchy.is_whole() {
            set("cpu.max", format!("{} {CPU_PERIOD_US}", quota(milli)))?;
        } else if hierarchy.has("cpu") {
            set("cpu.cfs_period_us", CPU_PERIOD_US.to_string())?;
            set("cpu.cfs_quota_us", quota(milli).to_string())?;
        }
    }
    if let Some(bytes) = limits.memory_bytes {
        if hierarchy.is_whole() {
            set("memory.max", bytes.to_string())?;
        } else if hierarchy.has("memory") {
            set("memory.limit_in_bytes", bytes.to_string())?;
        }
    }
    Ok(())
}

/// Moves this process into groups that were made for it.
pub(super) fn enter(entries: &[Entry]) -> Result<(), Failure> {
    for entry in entries {
        let file = match &entry.leaf {
            Some(leaf) => {
                make(leaf)?;
                leaf.join("cgroup.procs")
            }
            None => entry.file.clone(),
        };
        write(&file, "0").map_err(|error| Failure::Failed(format!("cannot enter {}: {error}", file.display())))?;
    }
    Ok(())
}

/// All groups below one, itself last.
fn tree(group: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    if depth < DEPTH_MAX
        && let Ok(entries) = fs::read_dir(group)
    {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                tree(&entry.path(), depth + 1, found);
            }
        }
    }
    found.push(group.to_owned());
}

fn groups_of(hierarchies: &[Hierarchy], name: &str, number: Option<u16>) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for hierarchy in hierarchies {
        let top = number.map_or_else(|| hierarchy.cluster(name), |number| hierarchy.node(name, number));
        if top.is_dir() {
            tree(&top, 0, &mut found);
        }
    }
    found
}

fn processes_in(groups: &[PathBuf]) -> BTreeSet<i32> {
    let texts = groups.iter().filter_map(|group| fs::read_to_string(group.join("cgroup.procs")).ok());
    // 0 is a process of another PID namespace, which nobody here can name.
    texts
        .flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<_>>())
        .filter(|id| *id > 0)
        .collect()
}

/// The processes of a node, or of all nodes.
pub(super) fn processes(hierarchies: &[Hierarchy], name: &str, number: Option<u16>) -> BTreeSet<i32> {
    processes_in(&groups_of(hierarchies, name, number))
}

/// Kills every process of a node, or of all nodes, frozen ones too, and waits until none is left.
pub(super) fn kill(hierarchies: &[Hierarchy], name: &str, number: Option<u16>) -> Result<(), Failure> {
    let deadline = Instant::now() + KILL_TIMEOUT;
    loop {
        let groups = groups_of(hierarchies, name, number);
        let alive = processes_in(&groups);
        if alive.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Failure::TimedOut(format!(
                "processes {alive:?} do not die; the kernel holds them (a hung disk or network file system?)"
            )));
        }
        for process in alive.iter().filter_map(|id| rustix::process::Pid::from_raw(*id)) {
            let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL); // it may have ended
        }
        // A frozen process dies when it thaws.
        for group in &groups {
            let _ = write(&group.join("freezer.state"), "THAWED");
            let _ = write(&group.join("cgroup.freeze"), "0");
        }
        std::thread::sleep(POLL); // groups tell of their end by no event that v1 has
    }
}

/// Removes the groups of a node, or of the cluster.
pub(super) fn remove(hierarchies: &[Hierarchy], name: &str, number: Option<u16>) -> Result<(), Failure> {
    let deadline = Instant::now() + KILL_TIMEOUT;
    for group in groups_of(hierarchies, name, number) {
        // A group is busy until its last process has been taken apart.
        while let Err(error) = fs::remove_dir(&group) {
            match error.kind() {
                io::ErrorKind::NotFound => break,
                io::ErrorKind::ResourceBusy if Instant::now() < deadline => std::thread::sleep(POLL),
                _ => {
                    return Err(Failure::Failed(format!(
                        "cannot remove the control group {}: {error}",
                        group.display()
                    )));
                }
            }
        }
    }
    if number.is_none() {
        for hierarchy in hierarchies {
            let _ = fs::remove_dir(hierarchy.parent.join(BASE)); // refused while other clusters are there
        }
    }
    Ok(())
}

fn freezer(hierarchies: &[Hierarchy]) -> Option<&Hierarchy> {
    hierarchies.iter().find(|one| one.has("freezer")).or_else(|| hierarchies.iter().find(|one| one.is_unified()))
}

/// Freezes a node, or lets it go on; waits until it is so.
pub(super) fn freeze(hierarchies: &[Hierarchy], name: &str, number: u16, frozen: bool) -> Result<(), Failure> {
    let hierarchy = freezer(hierarchies).ok_or_else(|| {
        Failure::Failed("this machine has no freezer: neither cgroup v2 nor the v1 controller".to_owned())
    })?;
    let group = hierarchy.node(name, number);
    let (file, text) = match (hierarchy.is_unified(), frozen) {
        (true, true) => ("cgroup.freeze", "1"),
        (true, false) => ("cgroup.freeze", "0"),
        (false, true) => ("freezer.state", "FROZEN"),
        (false, false) => ("freezer.state", "THAWED"),
    };
    let path = group.join(file);
    write(&path, text)
        .map_err(|error| Failure::Failed(format!("cannot write {text} to {}: {error}", path.display())))?;
    let deadline = Instant::now() + KILL_TIMEOUT;
    while is_frozen(hierarchies, name, number) != frozen {
        if Instant::now() > deadline {
            return Err(Failure::TimedOut(format!("{} does not follow: see {}", plan_word(frozen), path.display())));
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

fn plan_word(frozen: bool) -> &'static str {
    if frozen { "freezing" } else { "thawing" }
}

/// Whether all of a node is frozen.
pub(super) fn is_frozen(hierarchies: &[Hierarchy], name: &str, number: u16) -> bool {
    let Some(hierarchy) = freezer(hierarchies) else { return false };
    let group = hierarchy.node(name, number);
    let read = |file: &str| fs::read_to_string(group.join(file)).unwrap_or_default();
    if hierarchy.is_unified() {
        return read("cgroup.events").lines().any(|line| line == "frozen 1");
    }
    read("freezer.state").trim() == "FROZEN"
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
50 31 0:32 / /mnt/again rw,relatime - cgroup cgroup rw,memory
";

    #[test]
    fn every_hierarchy_is_found_once_below_our_own_group() {
        let own =
            "4:memory:/sandbox/abc\n2:cpu,cpuacct:/\n1:name=systemd:/user.slice/user-0.slice/session-1.scope\n0::/\n";
        let found = parse(V1, own);
        let parents: Vec<(String, String)> =
            found.iter().map(|one| (one.controllers.join(","), one.parent.display().to_string())).collect();
        let expected = [
            ("cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct/"),
            ("memory", "/sys/fs/cgroup/memory/sandbox/abc"),
            ("name=systemd", "/sys/fs/cgroup/systemd/"),
            ("", "/sys/fs/cgroup/unified/"),
        ];
        assert_eq!(parents, expected.map(|(one, other)| (one.to_owned(), other.to_owned())));
    }

    #[test]
    fn a_v2_machine_has_one() {
        let mountinfo = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n";
        let found = parse(mountinfo, "0::/user.slice/user-1000.slice/session-3.scope\n");
        assert_eq!(found.len(), 1);
        assert_eq!(found.first().map(|one| one.node("dev", 2)), Some(PathBuf::from("/sys/fs/cgroup/klynge-dev/dev/2")));
        // In a container whose mount shows only a part of the tree.
        let inside = parse("30 23 0:26 /box /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/box/inner\n");
        assert_eq!(inside.first().map(|one| one.parent.clone()), Some(PathBuf::from("/sys/fs/cgroup/inner")));
    }
}
