//! Makes, limits, empties and removes control groups.
//!
//! Layout below each base: `pods/<class>/pod<uid>/<container id>`, and `shims` for all shims. On v1 a child enters its
//! groups by writing 0 to `tasks`: moving one's own single thread does not take the system-wide lock that `cgroup.procs`
//! takes, which costs milliseconds. On v2 children are born in their group (CLONE_INTO_CGROUP).

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    detect::{self, Layout},
    device_filter,
    devices::{DeviceAccess, STANDARD},
    files, limits,
    stats::{self, Stats},
};
use crate::{
    error::{Context, Error, Result},
    spec::{QosClass, Resources},
    state,
};

/// How long processes may take to die before it is an error.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// How a new process gets into its groups.
#[derive(Default)]
pub(crate) struct Entry {
    /// Files into which it writes 0, on v1.
    pub(crate) files: Vec<PathBuf>,
    /// The group in which it is born, on v2.
    pub(crate) directory: Option<OwnedFd>,
}

/// Where the groups of this boot lie, so that an agent started from another group finds them again.
#[derive(serde::Serialize, serde::Deserialize)]
struct Record {
    boot_id: String,
    name: String,
    layout: Layout,
}

/// The control groups of one agent.
pub(crate) struct Cgroups {
    layout: Layout,
    standard_filter: Option<OwnedFd>,
}

impl Cgroups {
    /// Finds our groups of this boot again, or lays them out.
    pub(crate) fn open(name: &str, state_directory: &Path) -> Result<Cgroups> {
        if name.is_empty() || name.starts_with('.') || name.contains('/') {
            return Err(Error::Invalid(format!("{name:?} cannot be the name of a control group")));
        }
        let record = state_directory.join("cgroups.json");
        let boot_id = state::boot_id()?;
        let known = state::read::<Record>(&record).ok();
        let known = known.filter(|it| it.boot_id == boot_id && it.name == name).map(|it| it.layout);
        let layout = match known {
            Some(layout) => layout,
            None => detect::detect(name)?,
        };
        let cgroups = Cgroups { standard_filter: load_standard(&layout), layout };
        cgroups.prepare()?;
        state::write(&record, &Record { boot_id, name: name.to_owned(), layout: cgroups.layout.clone() })?;
        Ok(cgroups)
    }

    fn prepare(&self) -> Result<()> {
        let make_all = |base: &Path| {
            files::make(base)?;
            for below in ["shims", "pods", "pods/burstable", "pods/besteffort"] {
                files::make(&base.join(below))?;
            }
            Ok::<(), Error>(())
        };
        match &self.layout {
            Layout::Unified { base } => {
                let parent = base.parent().unwrap_or(base);
                if detect::delegate(parent).is_err() {
                    // A group that is not the real root may not hold processes and delegate; ours move one level down.
                    let leaf = parent.join("klynge-init");
                    files::make(&leaf)?;
                    for pid in processes(&parent.join("cgroup.procs")) {
                        let _ = files::write(&leaf.join("cgroup.procs"), &pid.to_string());
                    }
                    detect::delegate(parent)?;
                }
                files::make(base)?;
                detect::delegate(base)?;
                files::make(&base.join("pods"))?;
                detect::delegate(&base.join("pods"))?;
                make_all(base)?;
                for class in ["pods/burstable", "pods/besteffort"] {
                    detect::delegate(&base.join(class))?;
                }
                let _ = files::write(&base.join("pods/besteffort/cpu.weight"), "1");
            }
            Layout::Separate { hierarchies, devices, tracking } => {
                for (controllers, base) in hierarchies {
                    make_all(base)?;
                    if controllers.iter().any(|it| it == "cpu") {
                        files::write(&base.join("pods/besteffort/cpu.shares"), "2")?;
                    }
                }
                for base in tracking {
                    files::make(base)?;
                    files::make(&base.join("shims"))?;
                }
                if let Some(base) = devices {
                    files::make(base)?;
                    let standard = base.join("standard");
                    if !standard.exists() {
                        files::make(&standard)?;
                        restrict(&standard, &[])?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The relative path of a pod's group.
    pub(crate) fn pod(uid: &str, qos: QosClass) -> String {
        match qos {
            QosClass::Guaranteed => format!("pods/pod{uid}"),
            QosClass::Burstable => format!("pods/burstable/pod{uid}"),
            QosClass::BestEffort => format!("pods/besteffort/pod{uid}"),
        }
    }

    /// Makes a group with its limits; `parent_of_groups` says that it will hold groups instead of processes.
    pub(crate) fn create(&self, relative: &str, resources: &Resources, parent_of_groups: bool) -> Result<()> {
        match &self.layout {
            Layout::Unified { base } => {
                let group = base.join(relative);
                files::make(&group)?;
                limits::apply_unified(&group, resources)?;
                if parent_of_groups {
                    detect::delegate(&group)?;
                } else {
                    // As the kubelet asks for: memory running out ends the container, not one of its processes.
                    let _ = files::write(&group.join("memory.oom.group"), "1");
                }
            }
            Layout::Separate { hierarchies, .. } => {
                for (controllers, base) in hierarchies {
                    let group = base.join(relative);
                    files::make(&group)?;
                    limits::apply_separate(&group, controllers, resources)?;
                }
            }
        }
        Ok(())
    }

    /// Changes the limits of a group.
    pub(crate) fn update(&self, relative: &str, resources: &Resources) -> Result<()> {
        match &self.layout {
            Layout::Unified { base } => limits::apply_unified(&base.join(relative), resources),
            Layout::Separate { hierarchies, .. } => hierarchies.iter().try_for_each(|(controllers, base)| {
                limits::apply_separate(&base.join(relative), controllers, resources)
            }),
        }
    }

    /// How the shims get into their groups.
    pub(crate) fn shim_entry(&self) -> (Vec<PathBuf>, Option<PathBuf>) {
        match &self.layout {
            Layout::Unified { base } => (Vec::new(), Some(base.join("shims"))),
            Layout::Separate { hierarchies, devices, tracking } => {
                let bases = hierarchies.iter().map(|(_, base)| base).chain(tracking);
                let shims = bases.map(|base| base.join("shims/tasks"));
                (shims.chain(devices.iter().map(|base| base.join("tasks"))).collect(), None)
            }
        }
    }

    /// How a container's process gets into its groups; device rules are put in force on the way.
    pub(crate) fn container_entry(&self, relative: &str, devices: &DeviceAccess) -> Result<Entry> {
        match &self.layout {
            Layout::Unified { base } => {
                let group = base.join(relative);
                let directory: OwnedFd = fs::File::open(&group).context("opening", &group)?.into();
                self.filter(&directory, devices)?;
                Ok(Entry { files: Vec::new(), directory: Some(directory) })
            }
            Layout::Separate { hierarchies, devices: device_base, .. } => {
                let mut files: Vec<PathBuf> =
                    hierarchies.iter().map(|(_, base)| base.join(relative).join("tasks")).collect();
                match (device_base, devices) {
                    (Some(base), DeviceAccess::Standard) => files.push(base.join("standard/tasks")),
                    (Some(base), DeviceAccess::With(_)) => {
                        let group = base.join(device_group(relative));
                        if !group.exists() {
                            files::make(&group)?;
                            if let DeviceAccess::With(rules) = devices {
                                restrict(&group, rules)?;
                            }
                        }
                        files.push(group.join("tasks"));
                    }
                    (_, DeviceAccess::All) | (None, _) => {}
                }
                Ok(Entry { files, directory: None })
            }
        }
    }

    /// As `container_entry`, for a further process of a container that is there.
    pub(crate) fn exec_entry(&self, relative: &str, devices: &DeviceAccess) -> Result<Entry> {
        match &self.layout {
            Layout::Unified { base } => {
                let group = base.join(relative);
                let directory = fs::File::open(&group).context("opening", &group)?.into();
                Ok(Entry { files: Vec::new(), directory: Some(directory) })
            }
            Layout::Separate { .. } => self.container_entry(relative, devices),
        }
    }

    fn filter(&self, group: &OwnedFd, devices: &DeviceAccess) -> Result<()> {
        let own;
        let program = match devices {
            DeviceAccess::All => return Ok(()),
            DeviceAccess::Standard => self.standard_filter.as_ref(),
            DeviceAccess::With(rules) => {
                let all: Vec<_> = STANDARD.iter().chain(rules).copied().collect();
                own = device_filter::load(&device_filter::assemble(&all)).ok();
                own.as_ref()
            }
        };
        // Where bpf(2) is refused (nested in another container) that one's own device rules still hold.
        match program {
            Some(program) => device_filter::attach(program.as_fd(), group.as_fd())
                .map_err(|error| Error::io("attaching the device filter", error)),
            None => Ok(()),
        }
    }

    /// All directories of a group, deepest base first.
    fn groups(&self, relative: &str) -> Vec<PathBuf> {
        match &self.layout {
            Layout::Unified { base } => vec![base.join(relative)],
            Layout::Separate { hierarchies, devices, .. } => {
                let mut groups: Vec<PathBuf> = hierarchies.iter().map(|(_, base)| base.join(relative)).collect();
                groups.extend(devices.iter().map(|base| base.join(device_group(relative))));
                groups
            }
        }
    }

    /// Kills every process in a group and below. Blocks until they are gone or `KILL_TIMEOUT` has passed.
    pub(crate) fn kill(&self, relative: &str) -> Result<()> {
        let deadline = Instant::now() + KILL_TIMEOUT;
        let groups = self.groups(relative);
        let mut pause = Duration::from_micros(200);
        let mut stopped = false;
        loop {
            let pids = self.members(&groups);
            if pids.is_empty() {
                return Ok(());
            }
            if !stopped {
                stopped = true;
                for group in &groups {
                    // A group that forks faster than it is killed must not fork: no more tasks, where there is a limit.
                    let _ = files::write(&group.join("pids.max"), "0");
                    let _ = files::write(&group.join("cgroup.kill"), "1");
                }
            }
            for pid in &pids {
                if let Some(pid) = rustix::process::Pid::from_raw(*pid) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
            if Instant::now() > deadline {
                return Err(Error::Invalid(format!(
                    "processes {pids:?} of {relative} do not die; they hang in the kernel (see /proc/<pid>/stack)"
                )));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    fn members(&self, groups: &[PathBuf]) -> Vec<i32> {
        let mut pids = Vec::new();
        for group in groups {
            collect(group, &mut pids, 0);
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Removes a group and those below; kills what is still in it.
    pub(crate) fn remove(&self, relative: &str) -> Result<()> {
        for group in self.groups(relative) {
            match remove_tree(&group) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    self.kill(relative)?;
                    retry_remove(&group)?;
                }
                other => other.context("removing the control group", &group)?,
            }
        }
        Ok(())
    }

    /// How often the kernel killed for lack of memory in this group.
    pub(crate) fn oom_kills(&self, relative: &str) -> u64 {
        match &self.layout {
            Layout::Unified { base } => {
                files::keyed(&base.join(relative).join("memory.events"), "oom_kill").unwrap_or(0)
            }
            Layout::Separate { hierarchies, .. } => hierarchies
                .iter()
                .filter(|(controllers, _)| controllers.iter().any(|it| it == "memory"))
                .filter_map(|(_, base)| files::keyed(&base.join(relative).join("memory.oom_control"), "oom_kill"))
                .sum(),
        }
    }

    /// What a group has used.
    pub(crate) fn stats(&self, relative: &str) -> Stats {
        match &self.layout {
            Layout::Unified { base } => stats::unified(&base.join(relative)),
            Layout::Separate { hierarchies, .. } => {
                let mut all = Stats::default();
                for (controllers, base) in hierarchies {
                    stats::separate(&mut all, &base.join(relative), controllers);
                }
                all
            }
        }
    }

    /// Which groups containers see below /sys/fs/cgroup: v1 hierarchies by their mount options, none on v2.
    pub(crate) fn visible_hierarchies(&self) -> Option<Vec<String>> {
        match &self.layout {
            Layout::Unified { .. } => None,
            Layout::Separate { hierarchies, .. } => {
                Some(hierarchies.iter().map(|(controllers, _)| controllers.join(",")).collect())
            }
        }
    }

    /// Kills and removes everything below our bases, and the bases.
    pub(crate) fn purge(&self) -> Result<()> {
        let bases: Vec<&PathBuf> = match &self.layout {
            Layout::Unified { base } => vec![base],
            Layout::Separate { hierarchies, devices, tracking } => {
                hierarchies.iter().map(|(_, base)| base).chain(devices).chain(tracking).collect()
            }
        };
        self.kill("pods")?;
        self.kill("shims")?;
        for base in bases {
            retry_remove(base)?;
        }
        Ok(())
    }
}

fn load_standard(layout: &Layout) -> Option<OwnedFd> {
    match layout {
        Layout::Separate { .. } => None,
        Layout::Unified { .. } => match device_filter::load(&device_filter::assemble(&STANDARD)) {
            Ok(program) => Some(program),
            Err(error) => {
                tracing::warn!(%error, "the kernel refuses device filters; containers rely on capabilities alone");
                None
            }
        },
    }
}

/// v1 device groups lie flat beside `standard`, because rules of a parent bound those of its children.
fn device_group(relative: &str) -> String {
    relative.rsplit('/').next().unwrap_or(relative).to_owned()
}

fn restrict(group: &Path, further: &[super::devices::Rule]) -> Result<()> {
    files::write(&group.join("devices.deny"), "a")?;
    STANDARD.iter().chain(further).try_for_each(|rule| files::write(&group.join("devices.allow"), &rule.line()))
}

fn processes(file: &Path) -> Vec<i32> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect()
}

fn collect(group: &Path, pids: &mut Vec<i32>, depth: usize) {
    pids.extend(processes(&group.join("cgroup.procs")));
    if depth < 8 {
        for below in directories(group) {
            collect(&below, pids, depth + 1);
        }
    }
}

fn directories(group: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(group).map(|it| it.flatten().collect::<Vec<_>>()).unwrap_or_default();
    entries.iter().filter(|it| it.file_type().is_ok_and(|kind| kind.is_dir())).map(|it| it.path()).collect()
}

/// Removes from the leaves up; control files go with their directory.
fn remove_tree(group: &Path) -> io::Result<()> {
    match fs::remove_dir(group) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(_) => {}
    }
    for below in directories(group) {
        remove_tree(&below)?;
    }
    match fs::remove_dir(group) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The last process of a group may be a zombie for a moment.
fn retry_remove(group: &Path) -> Result<()> {
    let deadline = Instant::now() + KILL_TIMEOUT;
    loop {
        match remove_tree(group) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            other => return other.context("removing the control group", group),
        }
    }
}
