//! Users and groups by name, looked up in an image's /etc/passwd and /etc/group without mounting it or following links.

use std::{io::Read, os::unix::fs::FileTypeExt, path::PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::error::{Error, Result};

/// Larger account files are not read.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// A user of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvedUser {
    /// The user's number.
    pub uid: u32,
    /// The primary group's number.
    pub gid: u32,
    /// Groups that /etc/group lists the user in.
    pub groups: Vec<u32>,
    /// The home directory.
    pub home: Option<String>,
}

/// Reads a file of an image whose layers are these directories, topmost first.
fn read(layers: &[PathBuf], directory: &str, name: &str) -> Option<String> {
    for layer in layers {
        let Ok(root) = rustix::fs::open(layer, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        else {
            continue;
        };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let path = format!("{directory}/{name}");
        if let Ok(file) = rustix::fs::openat2(&root, &path, flags, Mode::empty(), resolve) {
            let file = std::fs::File::from(file);
            let kind = file.metadata().ok()?.file_type();
            if kind.is_char_device() || !kind.is_file() {
                return None;
            }
            let mut text = Vec::new();
            file.take(FILE_BYTES_MAX).read_to_end(&mut text).ok()?;
            return Some(String::from_utf8_lossy(&text).into_owned());
        }
        let whiteout = rustix::fs::openat2(&root, &path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty(), resolve);
        if whiteout.is_ok() {
            return None;
        }
        let opaque = layer.join(directory);
        let mut value = [0u8; 1];
        if rustix::fs::lgetxattr(&opaque, "trusted.overlay.opaque", &mut value).is_ok_and(|length| length == 1) {
            return None;
        }
    }
    None
}

/// Resolves `user`, `uid`, `user:group`, `uid:gid`; nothing means root.
pub(crate) fn resolve(layers: &[PathBuf], user: &str) -> Result<ResolvedUser> {
    let (user, group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let passwd = read(layers, "etc", "passwd").unwrap_or_default();
    let number: Option<u32> = user.parse().ok();
    let entry = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields.as_slice() else { return None };
        let (uid, gid) = (uid.parse::<u32>().ok()?, gid.parse::<u32>().ok()?);
        let right = *name == user || number == Some(uid);
        right.then(|| (name.to_string(), uid, gid, home.to_string()))
    });
    let (name, mut resolved) = match (entry, number) {
        (Some((name, uid, gid, home)), _) => {
            (Some(name), ResolvedUser { uid, gid, groups: Vec::new(), home: Some(home).filter(|it| !it.is_empty()) })
        }
        (None, Some(uid)) => (None, ResolvedUser { uid, ..ResolvedUser::default() }),
        (None, None) => {
            return Err(Error::Invalid(format!("unable to find user {user}: no matching entries in passwd file")));
        }
    };
    let groups = read(layers, "etc", "group").unwrap_or_default();
    let parsed = groups.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (group, gid) = (fields.next()?, fields.nth(1)?.parse::<u32>().ok()?);
        Some((group, gid, fields.next().unwrap_or_default()))
    });
    for (group_name, gid, members) in parsed {
        if name.as_deref().is_some_and(|name| members.split(',').any(|member| member == name)) {
            resolved.groups.push(gid);
        }
        if group == Some(group_name) {
            resolved.gid = gid;
        }
    }
    if let Some(group) = group {
        let known = groups.lines().any(|line| line.split(':').next() == Some(group));
        match group.parse() {
            Ok(gid) => resolved.gid = gid,
            Err(_) if known => {}
            Err(_) => {
                return Err(Error::Invalid(format!("unable to find group {group}: no matching entries in group file")));
            }
        }
        // As Docker has it: naming the group drops the listed ones.
        resolved.groups.clear();
    }
    resolved.groups.truncate(200);
    Ok(resolved)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn names_and_numbers() {
        let layer = tempfile::tempdir().unwrap();
        std::fs::create_dir(layer.path().join("etc")).unwrap();
        std::fs::write(
            layer.path().join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv:/bin/sh\nbroken\n",
        )
        .unwrap();
        std::fs::write(layer.path().join("etc/group"), "root:x:0:\nwww:x:34:\nlog:x:40:web,other\n").unwrap();
        let layers = [layer.path().to_owned()];
        let check = |user: &str, expected: Option<(u32, u32, &[u32])>| {
            let got = resolve(&layers, user).ok().map(|it| (it.uid, it.gid, it.groups));
            assert_eq!(got, expected.map(|(uid, gid, groups)| (uid, gid, groups.to_vec())), "{user}");
        };
        check("", Some((0, 0, &[])));
        check("web", Some((33, 34, &[40])));
        check("33", Some((33, 34, &[40])));
        check("web:log", Some((33, 40, &[])));
        check("1000", Some((1000, 0, &[])));
        check("1000:2000", Some((1000, 2000, &[])));
        check("nobody", None);
        check("web:nobody", None);
    }
}
