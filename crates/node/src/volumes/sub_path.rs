//! The directory behind a subPath: made where it is missing, and never outside of its volume, whatever links lie in there.

use rustix::fs::{Mode, OFlags, ResolveFlags, fchmod, fstat, mkdirat, open, openat2};
use rustix::io::Errno;
use std::io;
use std::path::Path;

const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

/// Makes what is missing of the directory `sub_path` in `volume`, with the volume's own mode as upstream does, so that who
/// may write to the volume may write there too. What is there stays as it is.
///
/// # Errors
/// What the file system says, and links that lead out of the volume.
pub fn make_sub_path(volume: &Path, sub_path: &str) -> io::Result<()> {
    let root = open(volume, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let find = |path: &str, more| openat2(&root, path, OFlags::PATH | OFlags::CLOEXEC | more, Mode::empty(), RESOLVE);
    let names: Vec<&str> = sub_path.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
    match find(&[&["."], names.as_slice()].concat().join("/"), OFlags::empty()) {
        Err(Errno::NOENT) => {}
        found => return Ok(found.map(drop)?),
    }
    let mode = Mode::from_raw_mode(fstat(&root)?.st_mode & 0o2777);
    let mut path = ".".to_owned();
    let mut parent = find(&path, OFlags::DIRECTORY)?;
    for name in names {
        path = format!("{path}/{name}");
        parent = match find(&path, OFlags::DIRECTORY) {
            Err(Errno::NOENT) => {
                match mkdirat(&parent, name, Mode::RWXU) {
                    // Another container of the pod may have made it just now; a link to nowhere is found out below.
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                let fresh = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let made = openat2(&parent, name, fresh, Mode::empty(), RESOLVE)?;
                fchmod(&made, mode)?; // past the umask
                made
            }
            found => found?,
        };
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn missing_directories_are_made_inside_the_volume_only() {
        let all = tempfile::tempdir().unwrap();
        let (volume, outside) = (all.path().join("volume"), all.path().join("outside"));
        fs::create_dir(&volume).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o777)).unwrap();
        make_sub_path(&volume, "a/./b//c/").unwrap();
        for made in ["a", "a/b", "a/b/c"] {
            let found = fs::metadata(volume.join(made)).unwrap();
            assert!(found.is_dir() && found.permissions().mode() & 0o7777 == 0o777, "{made}");
        }
        fs::set_permissions(volume.join("a"), fs::Permissions::from_mode(0o700)).unwrap();
        make_sub_path(&volume, "a/b").unwrap();
        assert_eq!(fs::metadata(volume.join("a")).unwrap().permissions().mode() & 0o7777, 0o700);
        fs::write(volume.join("file"), "x").unwrap();
        symlink("file", volume.join("link")).unwrap();
        make_sub_path(&volume, "file").unwrap();
        make_sub_path(&volume, "link").unwrap();
        assert!(fs::metadata(volume.join("link")).unwrap().is_file());
        symlink("a", volume.join("inner")).unwrap();
        make_sub_path(&volume, "inner/d").unwrap();
        assert!(volume.join("a/d").is_dir());
        symlink("../outside", volume.join("relative")).unwrap();
        symlink(&outside, volume.join("absolute")).unwrap();
        symlink("nowhere", volume.join("dangling")).unwrap();
        for refused in ["relative/x", "absolute/x", "dangling/x", "file/x", "../outside/x"] {
            assert!(make_sub_path(&volume, refused).is_err(), "{refused}");
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }
    #[test]
    fn nothing_is_made_outside_while_the_way_is_being_swapped() {
        use rustix::fs::RenameFlags;
        use std::sync::atomic::{AtomicBool, Ordering};
        let all = tempfile::tempdir().unwrap();
        let (volume, outside) = (all.path().join("volume"), all.path().join("outside"));
        fs::create_dir_all(volume.join("sub")).unwrap();
        fs::create_dir(&outside).unwrap();
        symlink(&outside, volume.join("absolute")).unwrap();
        symlink("../outside", volume.join("relative")).unwrap();
        let over = AtomicBool::new(false);
        let made = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    // The name is always there: one that is missing would be made.
                    for name in ["absolute", "absolute", "relative", "relative"] {
                        let (one, other) = (volume.join("sub"), volume.join(name));
                        rustix::fs::renameat_with(rustix::fs::CWD, one, rustix::fs::CWD, other, RenameFlags::EXCHANGE)
                            .unwrap();
                        std::thread::yield_now();
                    }
                }
            });
            let made = (0..3_000).filter(|round| make_sub_path(&volume, &format!("sub/{round}/deep")).is_ok()).count();
            over.store(true, Ordering::Relaxed);
            made
        });
        assert!(made > 0);
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }
}
