//! Finds out which control groups this machine has, and where below them ours may lie.

use std::{fs, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::files;
use crate::error::{Error, Result};

/// Where our control groups lie: the directories that hold all of them, one per hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Layout {
    /// cgroup v2.
    Unified {
        /// Our base directory.
        base: PathBuf,
    },
    /// cgroup v1, also beside a v2 mount without controllers.
    Separate {
        /// Those in which every container has a group, with their controllers.
        hierarchies: Vec<(Vec<String>, PathBuf)>,
        /// The device controller, whose groups containers share.
        devices: Option<PathBuf>,
        /// Hierarchies in which only the shims leave the service's group.
        tracking: Vec<PathBuf>,
    },
}

/// The v1 controllers in which containers have groups of their own.
const V1_CONTROLLERS: [&str; 5] = ["cpu", "cpuacct", "memory", "pids", "hugetlb"];

struct MountPoint {
    root: String,
    path: PathBuf,
    unified: bool,
    options: Vec<String>,
}

fn mount_points() -> Vec<MountPoint> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let (head, tail) = line.split_once(" - ")?;
            let mut head = head.split(' ').skip(3);
            let (root, path) = (head.next()?, head.next()?);
            let mut tail = tail.split(' ');
            let unified = match tail.next()? {
                "cgroup2" => true,
                "cgroup" => false,
                _ => return None,
            };
            let options = tail.nth(1)?.split(',').map(str::to_owned).collect();
            Some(MountPoint { root: root.to_owned(), path: PathBuf::from(path), unified, options })
        })
        .collect()
}

/// The group of this process in the hierarchy that has this controller (or name).
fn own_group(controller: &str) -> Option<String> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    text.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        controllers.split(',').any(|it| it == controller).then(|| path.to_owned())
    })
}

/// Groups that systemd made for services and sessions end with those; ours must not lie below them. Any other group is a
/// sandbox that we were put into and may be confined to, so ours are nested below it.
fn parent_group(own: &str) -> &str {
    let of_systemd = own.split('/').any(|part| [".slice", ".service", ".scope"].iter().any(|end| part.ends_with(end)));
    if of_systemd { "/" } else { own }
}

/// Looks at the mounts and our own groups.
pub(crate) fn detect(name: &str) -> Result<Layout> {
    let mounts = mount_points();
    if let Some(unified) = mounts.iter().find(|it| it.unified) {
        let controllers = fs::read_to_string(unified.path.join("cgroup.controllers")).unwrap_or_default();
        if controllers.split_whitespace().any(|it| it == "memory" || it == "pids") {
            return Ok(Layout::Unified { base: unified.path.join(name) });
        }
    }
    let base_of = |controller: &str| {
        let mount = mounts.iter().find(|it| !it.unified && it.options.iter().any(|option| option == controller))?;
        let own = own_group(controller)?;
        let parent = parent_group(&own);
        let inside = parent.strip_prefix(mount.root.trim_end_matches('/')).unwrap_or(parent);
        Some(mount.path.join(inside.trim_start_matches('/')).join(name))
    };
    let mut hierarchies: Vec<(Vec<String>, PathBuf)> = Vec::new();
    for controller in V1_CONTROLLERS {
        let Some(base) = base_of(controller) else { continue };
        match hierarchies.iter_mut().find(|(_, other)| *other == base) {
            Some((controllers, _)) => controllers.push(controller.to_owned()),
            None => hierarchies.push((vec![controller.to_owned()], base)),
        }
    }
    if hierarchies.is_empty() {
        return Err(Error::Unsupported(
            "no control groups are mounted; mount cgroup2 on /sys/fs/cgroup and start klynge again".to_owned(),
        ));
    }
    let mut tracking: Vec<PathBuf> = base_of("name=systemd").into_iter().collect();
    if let (Some(unified), Some(own)) = (mounts.iter().find(|it| it.unified), own_group(""))
        && own != "/"
    {
        tracking.push(unified.path.join(parent_group(&own).trim_start_matches('/')).join(name));
    }
    Ok(Layout::Separate { hierarchies, devices: base_of("devices"), tracking })
}

/// The v2 controllers that we use, where they are there.
const V2_CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "hugetlb"];

/// Lets the children of a v2 group use our controllers. The one error is that processes are in its way.
pub(crate) fn delegate(group: &std::path::Path) -> Result<()> {
    let available = fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
    let control = group.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&control).unwrap_or_default();
    for controller in V2_CONTROLLERS {
        let there = available.split_whitespace().any(|it| it == controller);
        if there && !enabled.split_whitespace().any(|it| it == controller) {
            match files::write(&control, &format!("+{controller}")) {
                Err(Error::Io { source, .. }) if source.kind() != std::io::ErrorKind::ResourceBusy => {
                    // Such as the CPU controller while real-time processes run: those limits are then not enforced.
                    tracing::warn!(controller, group = %group.display(), error = %source, "a controller cannot be used");
                }
                other => other?,
            }
        }
    }
    Ok(())
}
