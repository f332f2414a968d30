//! Rotating a log without the agent: the file is put aside beside its successor, and the one put aside before is removed.
//!
//! The shim knows no path, only the open file; the kernel tells where that is by now. The agent calls a log `N.log` and
//! what it puts aside `N.log.TIME`; what the shim puts aside is `N.log.TIME.alone`, so that neither takes the other's names,
//! and both sort by age. At most one file of the shim's own is there between two rotations of the agent, which counts it
//! among those that it keeps.

use crate::clock::{TIME_BYTES, write_time};
use crate::paths::Path;
use crate::sys;

const NAME_END: &[u8] = b".log";

/// Goes on in a new file under the log's name. `before` is the second of the last rotation of this kind, or 0.
pub fn rotate(file: i32, second: u64, before: u64) -> Result<i32, i32> {
    let mut link = Path::new();
    link.push(b"/proc/self/fd/")?;
    link.push_number(file as u64)?;
    let mut place = [0u8; sys::PATH_BYTES];
    let length = sys::read_link(link.text(), &mut place)?;
    let place = place.get(..length).unwrap_or(b"");
    let end = place.windows(NAME_END.len()).rposition(|it| it == NAME_END).ok_or(sys::EINVAL)? + NAME_END.len();
    let (name, rest) = place.split_at_checked(end).ok_or(sys::EINVAL)?;
    let mut path = Path::new();
    path.push(name)?;
    // Otherwise an agent has put it aside and died, or somebody removed it.
    if rest.is_empty() {
        // Two in one second take one name, and the older is gone by that.
        sys::rename(sys::AT_FDCWD, path.text(), aside(name, second, &mut link)?.text())?;
        if before != 0 && before != second {
            let _ = sys::remove_file(aside(name, before, &mut link)?.text());
        }
    }
    sys::open(sys::AT_FDCWD, path.text(), sys::O_WRONLY | sys::O_CREAT | sys::O_APPEND | sys::O_NOFOLLOW, 0o640)
}

/// The name of what was put aside in this second; `path` lends its memory.
fn aside<'a>(name: &[u8], second: u64, path: &'a mut Path) -> Result<&'a Path, i32> {
    let mut time = [0u8; TIME_BYTES];
    write_time(&mut time, second.wrapping_mul(1_000_000_000));
    path.clear();
    path.push(name)?;
    path.push(b".")?;
    for (range, separator) in [(0..4, &b""[..]), (5..7, b""), (8..10, b"-"), (11..13, b""), (14..16, b""), (17..19, b".alone")] {
        path.push(time.get(range).unwrap_or(b""))?;
        path.push(separator)?;
    }
    Ok(path)
}
