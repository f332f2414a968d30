//! How a node comes into the world: the stage enters its groups and leaves the namespaces, its child becomes PID 1 and mounts what it needs.

use super::boot::{Boot, CgroupMount};
use super::{INIT_WORD, system};
use crate::cli::Failure;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

fn failed<E: std::fmt::Display>(what: impl Into<String>) -> impl FnOnce(E) -> Failure {
    let what = what.into();
    move |error| Failure::Failed(format!("cannot {what}: {error}"))
}

/// The stage: runs with one thread, so that nothing but itself is moved.
pub(super) fn stage(path: &Path) -> Result<(), Failure> {
    let boot = Boot::load(path)?;
    // Neither the terminal's end nor its ^C is for the nodes.
    rustix::process::setsid().map_err(failed("leave the session"))?;
    let enter = |file: &Path| fs::write(file, "0").map_err(failed(format!("enter {}", file.display())));
    for entry in &boot.entries {
        enter(&entry.file)?;
    }
    system::leave_namespaces().map_err(failed("make namespaces"))?;
    for leaf in boot.entries.iter().filter_map(|entry| entry.leaf.as_deref()) {
        match fs::create_dir(leaf) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(format!("make {}", leaf.display()))(error));
            }
            _ => enter(&leaf.join("cgroup.procs"))?,
        }
    }
    let mut init = Command::new(system::this_binary());
    init.arg(INIT_WORD).arg(path).current_dir("/").stdin(Stdio::null());
    // It is PID 1 of the node. It lives on without this process, and nobody waits for it here.
    init.spawn().map_err(failed("start the node's init"))?;
    Ok(())
}

/// The mounts of PID 1, in the node's mount namespace.
pub(super) fn furnish(boot: &Boot) -> Result<(), Failure> {
    rustix::system::sethostname(boot.hostname.as_bytes()).map_err(failed("set the host name"))?;
    // What the machine mounts or unmounts is seen here; what is mounted here is seen by pods that ask for it, never by the machine.
    for flags in [MountPropagationFlags::DOWNSTREAM, MountPropagationFlags::SHARED] {
        mount_change("/", MountPropagationFlags::REC | flags).map_err(failed("change how mounts propagate"))?;
    }
    let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", quiet, None).map_err(failed("mount /proc"))?;
    mount("sysfs", "/sys", "sysfs", quiet, None).map_err(failed("mount /sys"))?;
    control_groups(&boot.mounts)?;
    // The file may be a link: what it leads to is covered.
    if let Ok(target) = fs::canonicalize("/etc/resolv.conf") {
        mount_bind(&boot.resolv_conf, &target).map_err(failed(format!("cover {}", target.display())))?;
    }
    Ok(())
}

fn control_groups(mounts: &[CgroupMount]) -> Result<(), Failure> {
    let top = Path::new("/sys/fs/cgroup");
    let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    if mounts.iter().any(|one| one.whole) {
        return mount("cgroup2", top, "cgroup2", quiet, None).map_err(failed("mount cgroup2"));
    }
    mount("tmpfs", top, "tmpfs", quiet, Some(c"mode=755,size=64k")).map_err(failed("mount /sys/fs/cgroup"))?;
    let make = |path: &Path| {
        fs::DirBuilder::new().mode(0o755).create(path).map_err(failed(format!("make {}", path.display())))
    };
    for one in mounts {
        if one.controllers.is_empty() {
            let path = top.join("unified");
            make(&path)?;
            mount("cgroup2", &path, "cgroup2", quiet, None).map_err(failed("mount cgroup2"))?;
            continue;
        }
        let options = one.controllers.join(",");
        let named = options.strip_prefix("name=");
        let path = top.join(named.unwrap_or(&options));
        make(&path)?;
        let data = CString::new(if named.is_some() { format!("none,{options}") } else { options.clone() });
        let data = data.map_err(failed("name a control group controller"))?;
        mount("cgroup", &path, "cgroup", quiet, Some(data.as_c_str()))
            .map_err(failed(format!("mount the control groups {options}")))?;
        if one.controllers.len() > 1 {
            for controller in &one.controllers {
                symlink(&options, top.join(controller)).map_err(failed(format!("link {controller}")))?;
            }
        }
    }
    Ok(())
}
