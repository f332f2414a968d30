//! Kubeconfig files on this machine: the one in force, the one of the user who typed the command, and merging into it.

use super::contexts::Before;
use super::lock::Lock;
use crate::cli::{Failure, Global};
use object::{Limits, Value, yaml};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, chown};
use std::path::{Path, PathBuf};

/// The user who typed the command, also under sudo.
pub(crate) struct Invoker {
    /// Home directory.
    pub(crate) home: PathBuf,
    /// User and group id.
    pub(crate) ids: (u32, u32),
}

impl Invoker {
    /// From SUDO_USER, else the user of this process. /etc/passwd is read as it is: a static glibc loads no plug-ins.
    pub(crate) fn find() -> Invoker {
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let sudo = std::env::var("SUDO_USER").ok().filter(|name| !name.is_empty());
        let own = rustix::process::getuid().as_raw();
        let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| match &sudo {
            Some(name) => fields.first() == Some(&name.as_str()),
            None => fields.get(2).and_then(|id| id.parse().ok()) == Some(own),
        });
        let field = |at: usize| entry.as_ref().and_then(|fields| fields.get(at).copied());
        let id = |at: usize, fallback: u32| field(at).and_then(|text| text.parse().ok()).unwrap_or(fallback);
        let home = std::env::var_os("HOME").filter(|_| sudo.is_none()).map(PathBuf::from);
        let home = home.or_else(|| field(5).map(PathBuf::from)).unwrap_or_else(|| PathBuf::from("/root"));
        Invoker { home, ids: (id(2, own), id(3, rustix::process::getgid().as_raw())) }
    }

    /// $KUBECONFIG's first file, else ~/.kube/config.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        let named = std::env::var("KUBECONFIG").ok();
        let first = named.as_deref().and_then(|list| list.split(':').find(|part| !part.is_empty()));
        first.map_or_else(|| self.home.join(".kube/config"), PathBuf::from)
    }
}

/// The cluster's own kubeconfig for its administrator: nothing else is in it.
pub(crate) fn admin_path(global: &Global) -> PathBuf {
    global.data_dir.join("kubeconfig")
}

/// The kubeconfig that a command uses: --kubeconfig, $KUBECONFIG, the cluster's own, ~/.kube/config.
pub(crate) fn in_force(global: &Global) -> Result<(PathBuf, Value), Failure> {
    let user = Invoker::find().kubeconfig();
    let mut candidates = vec![global.data_dir.join("kubeconfig"), user.clone()];
    if std::env::var_os("KUBECONFIG").is_some() {
        candidates.insert(0, user);
    }
    if let Some(path) = &global.kubeconfig {
        candidates = vec![path.clone()];
    }
    let mut looked: Vec<(PathBuf, &str)> = Vec::new();
    for path in candidates {
        if let Some(config) = read(&path)? {
            return Ok((path, config));
        }
        if !looked.iter().any(|(seen, _)| *seen == path) {
            // A directory that may not be entered hides whether the file is there.
            let denied =
                fs::metadata(&path).map_or_else(|error| error.kind() == io::ErrorKind::PermissionDenied, |_| true);
            looked.push((path, if denied { "permission denied" } else { "not there" }));
        }
    }
    let denied = looked.iter().any(|(_, why)| *why == "permission denied");
    let looked: Vec<String> = looked.iter().map(|(path, why)| format!("{} ({why})", path.display())).collect();
    let advice = if denied {
        "run it with sudo, or name a file of yours with --kubeconfig"
    } else {
        "start a cluster with `sudo klynge up`"
    };
    Err(Failure::Unreachable(format!("no kubeconfig that can be read: {}; {advice}", looked.join(", "))))
}

/// The content of a kubeconfig; None where it is missing or may not be read.
pub(crate) fn read(path: &Path) -> Result<Option<Value>, Failure> {
    match fs::read(path) {
        Ok(bytes) => {
            let decoded = yaml::decode(&bytes, &Limits::default());
            let decoded =
                decoded.map_err(|error| Failure::Failed(format!("{} does not parse: {error}", path.display())))?;
            Ok(Some(decoded.value))
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => Ok(None),
        Err(error) => Err(Failure::Failed(format!("cannot read {}: {error}", path.display()))),
    }
}

/// Writes a kubeconfig (mode 0600, owned by `ids`) through a temporary neighbour.
pub(crate) fn write(path: &Path, config: &Value, ids: (u32, u32)) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::Failed(format!("cannot write {}: {error}", path.display()));
    if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
        fs::create_dir_all(parent).map_err(failed)?;
        chown(parent, Some(ids.0), Some(ids.1)).map_err(failed)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".klynge-new");
    let temporary = path.with_file_name(name);
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary).map_err(failed)?;
    file.write_all(yaml::encode(config).as_bytes()).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    chown(&temporary, Some(ids.0), Some(ids.1)).map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)
}

/// What came of a merge.
pub(crate) struct Merged {
    /// The name of the context.
    pub(crate) name: String,
    /// Whether the file was not there before.
    pub(crate) made: bool,
    /// The context of another cluster that was current before and is so no more.
    pub(crate) former: Option<String>,
}

/// The file that a link leads to, and whose it is: a link stays a link, and the owner stays the owner.
fn behind(path: &Path, ids: (u32, u32)) -> (PathBuf, (u32, u32)) {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let ids = fs::metadata(&path).map_or(ids, |found| (found.uid(), found.gid()));
    (path, ids)
}

/// As [`read`], but a file that may not be read is an error: it may not be replaced either.
fn read_to_change(path: &Path) -> Result<Option<Value>, Failure> {
    let config = read(path)?;
    if config.is_none() && path.exists() {
        return Err(Failure::Failed(format!(
            "cannot read {}: permission denied, so it is not changed",
            path.display()
        )));
    }
    Ok(config)
}

/// Puts the cluster of `ours` into `path`, keeping everything else in it. A context that was there before becomes the current one
/// again only if `switches`. `lock` is what the caller holds already.
pub(crate) fn merge_file(
    path: &Path,
    ours: &Value,
    ids: (u32, u32),
    switches: bool,
    lock: Option<&Lock>,
) -> Result<Merged, Failure> {
    let (path, ids) = behind(path, ids);
    let _lock = Lock::around(&path, lock)?;
    let held = read_to_change(&path)?;
    let made = held.is_none();
    let mut config = held.unwrap_or_default();
    let current = config.str_at(&["current-context"]).filter(|name| !name.is_empty()).map(str::to_owned);
    let contexts = context_names(&config);
    let name = api::pki::merge(&mut config, ours);
    let mut former = current.filter(|former| *former != name);
    if !switches && contexts.contains(&name) && former.is_some() {
        config.set(&["current-context"], former.take().unwrap_or_default().as_str().into());
    }
    write(&path, &config, ids)?;
    Ok(Merged { name, made, former })
}

fn context_names(config: &Value) -> Vec<String> {
    let contexts = config.get("contexts").and_then(Value::as_array).unwrap_or_default();
    contexts.iter().filter_map(|context| context.str_at(&["name"]).map(str::to_owned)).collect()
}

/// Takes the entries of `ours` out of `path` again, and puts the former context back. The file goes when nothing is left in it and
/// it was not there before. `lock` is what the caller holds already.
pub(crate) fn remove_from_file(
    path: &Path,
    ours: &Value,
    ids: (u32, u32),
    before: &Before,
    lock: Option<&Lock>,
) -> Result<(), Failure> {
    let (path, ids) = behind(path, ids);
    let _lock = Lock::around(&path, lock)?;
    let Some(held) = read_to_change(&path)? else { return Ok(()) };
    let mut config = held.clone();
    let is_bare = api::pki::unmerge(&mut config, ours);
    let others = ["apiVersion", "kind", "clusters", "users", "contexts", "current-context"];
    let has_more = config.as_object().is_some_and(|map| map.iter().any(|(key, _)| !others.contains(&key)));
    if is_bare && before.made && !has_more {
        return fs::remove_file(&path)
            .map_err(|error| Failure::Failed(format!("cannot remove {}: {error}", path.display())));
    }
    if config == held {
        return Ok(());
    }
    let was_current = config.str_at(&["current-context"]) == Some("") && held.str_at(&["current-context"]) != Some("");
    if was_current
        && let Some(former) = &before.former
        && context_names(&config).contains(former)
    {
        config.set(&["current-context"], former.as_str().into());
    }
    write(&path, &config, ids)
}
