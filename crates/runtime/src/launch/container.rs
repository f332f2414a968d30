//! The program of a container: its root file system, /proc, /dev, /sys, volumes, and what makes its process harmless.

use std::{
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use base64::Engine;

use super::{Program, StepName, exec::set, users};
use crate::{
    capabilities,
    cgroup::{Cgroups, DeviceAccess},
    error::{Context, Error, Result},
    images::Image,
    seccomp,
    spec::{ContainerSpec, Device, Mount, PidNamespace, PodSpec, Propagation, Seccomp},
    state::{ExecTemplate, Identity},
    wire,
};

pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const MS_RDONLY: u64 = 1;
const MS_NOSUID: u64 = 2;
const MS_NODEV: u64 = 4;
const MS_NOEXEC: u64 = 8;
const MS_STRICTATIME: u64 = 1 << 24;
const MS_PRIVATE: u64 = 1 << 18;
const MS_SLAVE: u64 = 1 << 19;
const MS_SHARED: u64 = 1 << 20;
const CLONE_NEWCGROUP: u64 = 0x0200_0000;
const S_IFCHR: u64 = 0o020_000;
const S_IFBLK: u64 = 0o060_000;
const MOUNT_DATA_BYTES_MAX: usize = 4_095;

/// What containerd hides.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// What containerd makes read-only.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Where a container's things are.
pub(crate) struct Place<'a> {
    pub(crate) layers_directory: &'a Path,
    pub(crate) pod_directory: &'a Path,
    pub(crate) container_directory: &'a Path,
    /// An empty directory that masks directories.
    pub(crate) empty: &'a Path,
    pub(crate) cgroups: &'a Cgroups,
    /// The container's group.
    pub(crate) group: &'a str,
}

/// The outcome.
pub(crate) struct Compiled {
    pub(crate) program: Program,
    pub(crate) template: ExecTemplate,
    pub(crate) entry: crate::cgroup::Entry,
}

/// Writes the program of a container.
pub(crate) fn container(spec: &ContainerSpec, pod: &PodSpec, image: &Image, place: &Place<'_>) -> Result<Compiled> {
    refuse_nul(spec)?;
    let user = spec.user.as_deref().unwrap_or(&image.config.user);
    let layers: Vec<PathBuf> = image.layers.iter().rev().map(|it| place.layers_directory.join(it)).collect();
    let user = users::resolve(&layers, user)?;
    let capabilities = capabilities::resolve(&spec.capabilities, spec.privileged)?;
    let filter = match &spec.seccomp {
        _ if spec.privileged => Vec::new(),
        Seccomp::Unconfined => Vec::new(),
        Seccomp::RuntimeDefault => seccomp::default_filter(capabilities)?,
        Seccomp::Profile(json) => seccomp::profile_filter(json, capabilities)?,
    };
    let gid = spec.group.unwrap_or(user.gid);
    let mut groups = if spec.strict_groups { Vec::new() } else { user.groups.clone() };
    groups.extend(&spec.supplemental_groups);
    groups.push(gid);
    groups.sort_unstable();
    groups.dedup();
    let env = environment(spec, pod, image, user.home.as_deref());
    let working_directory = match spec.working_directory.as_deref().unwrap_or(&image.config.working_directory) {
        "" => "/".to_owned(),
        it => absolute(it),
    };
    let template = ExecTemplate {
        env: env.clone(),
        working_directory,
        identity: Identity { uid: user.uid, gid, groups, capabilities },
        no_new_privileges: spec.no_new_privileges,
        seccomp: base64::engine::general_purpose::STANDARD.encode(&filter),
        oom_score_adj: spec.oom_score_adj,
        limits: spec.limits.clone(),
        extra_devices: !spec.devices.is_empty(),
        privileged: spec.privileged,
    };
    let access = device_access(spec)?;
    let entry = place.cgroups.container_entry(place.group, &access)?;
    let arguments = arguments(spec, image)?;

    let mut program = Program::new();
    let p = &mut program;
    for file in &entry.files {
        p.plain(wire::OP_WRITE_FILE, 0, "entering the control group").text(&file.to_string_lossy()).bytes(b"0");
    }
    p.plain(wire::OP_WRITE_FILE, wire::STEP_OPTIONAL, "setting the OOM score")
        .text("/proc/self/oom_score_adj")
        .bytes(spec.oom_score_adj.to_string().as_bytes());
    p.plain(wire::OP_UNSHARE, wire::STEP_OPTIONAL, "hiding the host's control groups").number(CLONE_NEWCGROUP);
    root_file_system(p, image, place)?;
    system_mounts(p, spec, pod, place);
    device_nodes(p, spec)?;
    let mut mounts: Vec<&Mount> = spec.mounts.iter().collect();
    mounts.sort_by_key(|mount| mount.target.split('/').filter(|part| !part.is_empty()).count());
    for mount in mounts {
        volume(p, mount);
    }
    p.step(wire::OP_MAKE_DIRECTORY, wire::STEP_OPTIONAL, StepName::Other("making the working directory".to_owned()))
        .text(&template.working_directory)
        .number(0o755)
        .number(0)
        .number(0);
    if spec.tty {
        p.plain(wire::OP_TTY, 0, "opening a terminal").number(0).number(0).number(1).number(u64::from(user.uid));
    } else {
        p.plain(wire::OP_STDIO, 0, "connecting standard streams").number(u64::from(user.uid));
    }
    if !spec.privileged && !spec.unmasked_proc {
        for path in MASKED {
            p.plain(wire::OP_MASK, 0, &format!("masking {path}")).text(path).text(&place.empty.to_string_lossy());
        }
        for path in READ_ONLY {
            p.plain(wire::OP_READ_ONLY, 0, &format!("making {path} read-only")).text(path);
        }
    }
    if spec.read_only_root {
        image_volumes(p, spec, image, place);
        p.plain(wire::OP_ATTRIBUTES, 0, "making the root read-only").text("/").number(1);
    }
    drop(p.plain(wire::OP_PIVOT, 0, "changing the root"));
    let path = env.iter().find_map(|it| it.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    finish(p, &template, &filter, &arguments, &env, path)?;
    Ok(Compiled { program, template, entry })
}

/// The steps that every process ends with, of a container and of an exec.
pub(crate) fn finish(
    p: &mut Program,
    template: &ExecTemplate,
    filter: &[u8],
    arguments: &[String],
    env: &[String],
    path: &str,
) -> Result<()> {
    let Some(command) = arguments.first() else {
        return Err(Error::Invalid("no command specified".to_owned()));
    };
    for limit in &template.limits {
        p.plain(wire::OP_RLIMIT, wire::STEP_OPTIONAL, "setting a limit")
            .number(u64::from(limit.resource))
            .number(limit.soft)
            .number(limit.hard);
    }
    drop(p.plain(wire::OP_KEYRING, wire::STEP_OPTIONAL, "making a session keyring"));
    p.plain(wire::OP_UMASK, 0, "setting the file mode mask").number(0o022);
    p.step(wire::OP_CHANGE_DIRECTORY, 0, StepName::WorkingDirectory(template.working_directory.clone()))
        .text(&template.working_directory);
    let set_filter = |p: &mut Program| {
        if !filter.is_empty() {
            p.plain(wire::OP_SECCOMP, 0, "installing the seccomp filter").bytes(filter);
        }
    };
    // Without no_new_privs only a privileged process may install a filter, so it has to come before the change of identity.
    if !template.no_new_privileges {
        set_filter(p);
    }
    let Identity { uid, gid, groups, capabilities } = &template.identity;
    let effective = if *uid == 0 { *capabilities } else { 0 };
    let mut step = p.step(wire::OP_IDENTITY, 0, StepName::Identity);
    for number in [u64::from(*uid), u64::from(*gid), *capabilities, effective, effective, 0, 0, groups.len() as u64] {
        step = step.number(number);
    }
    for group in groups {
        step = step.number(u64::from(*group));
    }
    drop(step);
    if template.no_new_privileges {
        drop(p.plain(wire::OP_NO_NEW_PRIVILEGES, 0, "setting no_new_privs"));
        set_filter(p);
    }
    let mut step = p.step(wire::OP_EXECUTE, 0, StepName::Execute { command: command.clone() });
    step = step.number(arguments.len() as u64).number(env.len() as u64).text(path);
    for text in arguments.iter().chain(env) {
        step = step.text(text);
    }
    drop(step);
    Ok(())
}

fn refuse_nul(spec: &ContainerSpec) -> Result<()> {
    let pairs = spec.env.iter().flat_map(|(name, value)| [name, value]);
    let mut texts = spec.command.iter().chain(&spec.args).chain(pairs).chain(&spec.working_directory);
    match texts.find(|text| text.contains('\0')) {
        Some(text) => Err(Error::Invalid(format!("{text:?} contains a NUL character"))),
        None => Ok(()),
    }
}

fn absolute(path: &str) -> String {
    // Lexically, since the step that makes it refuses "..".
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    format!("/{}", parts.join("/"))
}

fn arguments(spec: &ContainerSpec, image: &Image) -> Result<Vec<String>> {
    let mut all = Vec::new();
    if spec.command.is_empty() {
        all.extend(image.config.entrypoint.iter().cloned());
        all.extend(if spec.args.is_empty() { image.config.cmd.iter().cloned() } else { [].iter().cloned() });
    } else {
        all.extend(spec.command.iter().cloned());
    }
    all.extend(spec.args.iter().cloned());
    if all.is_empty() {
        let message = "no command specified: neither the container nor its image names one".to_owned();
        return Err(Error::Invalid(message));
    }
    Ok(all)
}

fn environment(spec: &ContainerSpec, pod: &PodSpec, image: &Image, home: Option<&str>) -> Vec<String> {
    let mut env = vec![format!("PATH={DEFAULT_PATH}")];
    if !pod.host_network {
        env.push(format!("HOSTNAME={}", pod.hostname));
    }
    if spec.tty {
        env.push("TERM=xterm".to_owned());
    }
    for variable in &image.config.env {
        if let Some((name, value)) = variable.split_once('=') {
            set(&mut env, name, value);
        }
    }
    for (name, value) in &spec.env {
        set(&mut env, name, value);
    }
    if !env.iter().any(|it| it.starts_with("HOME=")) {
        env.push(format!("HOME={}", home.unwrap_or("/")));
    }
    env
}

fn root_file_system(p: &mut Program, image: &Image, place: &Place<'_>) -> Result<()> {
    let root = place.container_directory.join("root");
    let lower = if image.layers.is_empty() {
        place.empty.to_string_lossy().into_owned()
    } else {
        image.layers.iter().rev().map(String::as_str).collect::<Vec<_>>().join(":")
    };
    // Names of layers are relative to their directory, so that the options fit in the page that mount(2) takes. What a
    // container writes to its root is gone with it, hence `volatile`: without it every end of a container is a sync(2).
    let data = format!(
        "lowerdir={lower},upperdir={}/upper,workdir={}/work,volatile",
        place.container_directory.display(),
        place.container_directory.display()
    );
    if data.len() > MOUNT_DATA_BYTES_MAX {
        return Err(Error::Invalid(format!("the image has too many layers ({})", image.layers.len())));
    }
    let directory = place.layers_directory.to_string_lossy();
    p.plain(wire::OP_CHANGE_DIRECTORY, 0, "entering the layers' directory").text(&directory);
    let root = root.to_string_lossy();
    p.step(wire::OP_MOUNT, 0, mount_name("overlay", "/"))
        .text("overlay")
        .text(&root)
        .text("overlay")
        .number(0)
        .text(&data);
    p.plain(wire::OP_ROOT, 0, "opening the root").text(&root);
    Ok(())
}

fn mount_name(source: &str, target: &str) -> StepName {
    StepName::Mount { source: source.to_owned(), target: target.to_owned() }
}

fn system_mounts(p: &mut Program, spec: &ContainerSpec, pod: &PodSpec, place: &Place<'_>) {
    let replaced = |target: &str| spec.mounts.iter().any(|mount| absolute(&mount.target) == target);
    let hard = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    let sys = if spec.privileged { hard } else { hard | MS_RDONLY };
    let table: [(&str, &str, &str, u64, &str); 5] = [
        ("proc", "/proc", "proc", hard, ""),
        ("tmpfs", "/dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k"),
        ("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"),
        ("mqueue", "/dev/mqueue", "mqueue", hard, ""),
        ("sysfs", "/sys", "sysfs", sys, ""),
    ];
    for (source, target, kind, flags, data) in table {
        if !replaced(target) {
            p.step(wire::OP_MOUNT, 0, mount_name(source, target))
                .text(source)
                .text(target)
                .text(kind)
                .number(flags)
                .text(data);
        }
    }
    if !replaced("/dev/shm") {
        let shm = if pod.host_ipc { PathBuf::from("/dev/shm") } else { place.pod_directory.join("shm") };
        let name = mount_name(&shm.to_string_lossy(), "/dev/shm");
        bind(p, 0, "/dev/shm", Bind { name, source: &shm, sub_path: "", attributes: 0, propagation: MS_PRIVATE });
    }
    if replaced("/sys/fs/cgroup") || replaced("/sys") {
        return;
    }
    let name = |kind: &str| mount_name(kind, "/sys/fs/cgroup");
    match place.cgroups.visible_hierarchies() {
        None => {
            let step = p.step(wire::OP_MOUNT, wire::STEP_OPTIONAL, name("cgroup2"));
            drop(step.text("cgroup").text("/sys/fs/cgroup").text("cgroup2").number(sys).text(""));
        }
        Some(hierarchies) => {
            let step = p.step(wire::OP_MOUNT, wire::STEP_OPTIONAL, name("tmpfs"));
            drop(step.text("tmpfs").text("/sys/fs/cgroup").text("tmpfs").number(hard).text("mode=755,size=64k"));
            for controllers in hierarchies {
                let target = format!("/sys/fs/cgroup/{controllers}");
                let step = p.step(wire::OP_MOUNT, wire::STEP_OPTIONAL, name("cgroup"));
                drop(step.text("cgroup").text(&target).text("cgroup").number(sys).text(&controllers));
            }
        }
    }
}

/// A bind mount: what it is called when it fails, its source, what of the source, and how it travels.
struct Bind<'a> {
    name: StepName,
    source: &'a Path,
    sub_path: &'a str,
    attributes: u64,
    propagation: u64,
}

fn bind(p: &mut Program, flags: u16, target: &str, bind: Bind<'_>) {
    let Bind { name, source, sub_path, attributes, propagation } = bind;
    let source = source.to_string_lossy();
    p.step(wire::OP_BIND, flags, name).text(&source).text(sub_path).text(target).number(attributes).number(propagation);
}

fn volume(p: &mut Program, mount: &Mount) {
    let (flags, propagation) = match mount.propagation {
        Propagation::None => (0, MS_PRIVATE),
        Propagation::HostToContainer => (0, MS_SLAVE),
        Propagation::Bidirectional => (wire::STEP_FROM_HOST, MS_SHARED),
    };
    let attributes = u64::from(mount.read_only) | u64::from(mount.recursive_read_only) << 63;
    let sub_path = mount.sub_path.as_deref().unwrap_or_default().trim_matches('/');
    let target = absolute(&mount.target);
    let name = StepName::Volume { source: mount.source.to_string_lossy().into_owned(), target: target.clone() };
    let source = &mount.source;
    bind(p, flags | wire::STEP_RECURSIVE, &target, Bind { name, source, sub_path, attributes, propagation });
}

/// What the image declares as volumes stays writable on a read-only root, with what the image has there: each is a mount of
/// its own of the same directory. A path that leads elsewhere through links is left as it is.
fn image_volumes(p: &mut Program, spec: &ContainerSpec, image: &Image, place: &Place<'_>) {
    let root = place.container_directory.join("root");
    for path in image.config.volumes.iter().map(|path| absolute(path)) {
        let taken = spec.mounts.iter().any(|mount| absolute(&mount.target) == path);
        if path == "/" || path.contains('\0') || taken {
            continue;
        }
        p.plain(wire::OP_MAKE_DIRECTORY, wire::STEP_OPTIONAL, "making a volume of the image")
            .text(&path)
            .number(0o755)
            .number(0)
            .number(0);
        let (source, sub_path) = (root.as_path(), path.trim_start_matches('/'));
        let name = mount_name("a volume of the image", &path);
        let bound = Bind { name, source, sub_path, attributes: 0, propagation: MS_PRIVATE };
        bind(p, wire::STEP_OPTIONAL | wire::STEP_EXISTING_TARGET, &path, bound);
    }
}

fn device_number(major: u64, minor: u64) -> u64 {
    libc::makedev(major as u32, minor as u32)
}

fn device_nodes(p: &mut Program, spec: &ContainerSpec) -> Result<()> {
    let mut node = |path: &str, mode: u64, device: u64, owner: (u32, u32)| {
        p.plain(wire::OP_MAKE_NODE, 0, &format!("making the device {path}"))
            .text(path)
            .number(mode)
            .number(device)
            .number(u64::from(owner.0))
            .number(u64::from(owner.1));
    };
    for (path, major, minor) in
        [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)]
    {
        node(&format!("/dev/{path}"), S_IFCHR | 0o666, device_number(major, minor), (0, 0));
    }
    let mut devices = spec.devices.clone();
    if spec.privileged {
        host_devices(Path::new("/dev"), 0, &mut devices);
    }
    for device in &devices {
        let found = std::fs::metadata(&device.host_path);
        let Ok(metadata) = found else {
            if spec.privileged && !spec.devices.iter().any(|it| it.host_path == device.host_path) {
                continue;
            }
            return found.map(drop).context("looking at the device", &device.host_path);
        };
        let kind = if metadata.file_type().is_block_device() { S_IFBLK } else { S_IFCHR };
        let mode = kind | u64::from(metadata.mode() & 0o7777);
        node(&absolute(&device.container_path), mode, metadata.rdev(), (metadata.uid(), metadata.gid()));
    }
    for (target, path) in [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
        ("/proc/kcore", "/dev/core"),
        ("pts/ptmx", "/dev/ptmx"),
    ] {
        p.plain(wire::OP_SYMLINK, 0, &format!("linking {path}")).text(target).text(path);
    }
    Ok(())
}

/// The host's device nodes, for privileged containers; bounded in depth and number.
fn host_devices(directory: &Path, depth: usize, out: &mut Vec<Device>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
        let name = entry.file_name();
        let skipped = ["pts", "shm", "mqueue", "fd", "console", "ptmx", ".lxc", ".udev"];
        if out.len() >= 1_024 || skipped.iter().any(|it| name == *it) {
            continue;
        }
        if kind.is_dir() && depth < 4 {
            host_devices(&path, depth + 1, out);
        } else if kind.is_char_device() || kind.is_block_device() {
            let container_path = path.to_string_lossy().into_owned();
            out.push(Device { host_path: path, container_path, permissions: "rwm".to_owned() });
        }
    }
}

pub(crate) fn device_access(spec: &ContainerSpec) -> Result<DeviceAccess> {
    if spec.privileged {
        return Ok(DeviceAccess::All);
    }
    if spec.devices.is_empty() {
        return Ok(DeviceAccess::Standard);
    }
    let rules = spec.devices.iter().map(|device| {
        let metadata = std::fs::metadata(&device.host_path).context("looking at the device", &device.host_path)?;
        Ok(crate::cgroup::Rule {
            block: metadata.file_type().is_block_device(),
            major: Some(libc::major(metadata.rdev())),
            minor: Some(libc::minor(metadata.rdev())),
            make: device.permissions.contains('m'),
            read: device.permissions.contains('r'),
            write: device.permissions.contains('w'),
        })
    });
    rules.collect::<Result<_>>().map(DeviceAccess::With)
}

/// The flags of `START` that say which processes the container sees.
pub(crate) fn pid_flags(namespace: &PidNamespace) -> u64 {
    match namespace {
        PidNamespace::Container => wire::FLAG_OWN_PID,
        PidNamespace::Pod => wire::FLAG_POD_PID,
        PidNamespace::Host => 0,
        PidNamespace::Of(_) => wire::FLAG_POD_PID | wire::FLAG_TARGET_PID,
    }
}
