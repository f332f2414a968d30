//! Paths without an allocator: joining, decimal numbers, and lookups and creation that never leave the container's root.

use core::ffi::CStr;

use crate::sys::{self, PATH_BYTES};

/// A path being put together on the stack, always terminated.
pub struct Path {
    bytes: [u8; PATH_BYTES],
    length: usize,
}

impl Path {
    pub fn new() -> Path {
        Path { bytes: [0; PATH_BYTES], length: 0 }
    }
    pub fn clear(&mut self) {
        self.length = 0;
    }
    /// Appends; `E2BIG` when it does not fit.
    pub fn push(&mut self, part: &[u8]) -> Result<(), i32> {
        let end = self.length + part.len();
        if end >= PATH_BYTES {
            return Err(sys::E2BIG);
        }
        self.bytes.get_mut(self.length..end).ok_or(sys::E2BIG)?.copy_from_slice(part);
        self.length = end;
        if let Some(terminator) = self.bytes.get_mut(end) {
            *terminator = 0;
        }
        Ok(())
    }
    pub fn push_number(&mut self, mut number: u64) -> Result<(), i32> {
        let mut digits = [0u8; 20];
        let mut first = digits.len();
        loop {
            first -= 1;
            if let Some(digit) = digits.get_mut(first) {
                *digit = b'0' + (number % 10) as u8;
            }
            number /= 10;
            if number == 0 || first == 0 {
                break;
            }
        }
        self.push(digits.get(first..).unwrap_or(b""))
    }
    pub fn text(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or(c"")
    }
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(b"")
    }
}

/// The path `/proc/<pid>/<rest>`.
pub fn of_process(pid: i32, rest: &[u8]) -> Result<Path, i32> {
    let mut path = Path::new();
    path.push(b"/proc/")?;
    path.push_number(pid as u64)?;
    path.push(b"/")?;
    path.push(rest)?;
    Ok(path)
}

/// Opens a path inside `root` (or as it stands if there is no root), links resolved as a process with that root would.
pub fn open_in(root: Option<i32>, path: &CStr, flags: usize) -> Result<i32, i32> {
    match root {
        Some(root) => sys::open_resolved(root, path, flags, 0, sys::RESOLVE_IN_ROOT),
        None => sys::open(sys::AT_FDCWD, path, flags, 0),
    }
}

/// What `ensure` makes at the end of a path that is not there.
#[derive(Clone, Copy)]
pub enum Missing {
    Directory { mode: usize, owner: Option<(u32, u32)> },
    File,
}

/// Opens a path (O_PATH), first making what is missing of it.
pub fn ensure(root: Option<i32>, path: &CStr, missing: Missing) -> Result<i32, i32> {
    match open_in(root, path, sys::O_PATH) {
        Err(sys::ENOENT) => {}
        found => return found,
    }
    let bytes = path.to_bytes();
    let mut prefix = Path::new();
    prefix.push(b"/")?;
    let mut parent = open_in(root, prefix.text(), sys::O_PATH)?;
    let mut components = bytes.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").peekable();
    while let Some(component) = components.next() {
        if component == b".." {
            sys::close(parent);
            return Err(sys::EINVAL);
        }
        prefix.push(component)?;
        let next = match open_in(root, prefix.text(), sys::O_PATH) {
            Err(sys::ENOENT) => match make(parent, component, missing, components.peek().is_none()) {
                // Another container that shares the volume may have made it in this moment.
                Ok(()) | Err(sys::EEXIST) => open_in(root, prefix.text(), sys::O_PATH),
                Err(errno) => Err(errno),
            },
            other => other,
        };
        sys::close(parent);
        parent = next?;
        prefix.push(b"/")?;
    }
    Ok(parent)
}

fn make(parent: i32, component: &[u8], missing: Missing, last: bool) -> Result<(), i32> {
    let mut name = Path::new();
    name.push(component)?;
    match (missing, last) {
        (Missing::File, true) => sys::make_node(parent, name.text(), 0o100644, 0).map(drop),
        (Missing::Directory { mode, owner }, true) => {
            sys::make_directory(parent, name.text(), mode)?;
            sys::change_mode(parent, name.text(), mode)?;
            if let Some((uid, gid)) = owner {
                sys::change_owner(parent, name.text(), uid, gid)?;
            }
            Ok(())
        }
        (_, false) => sys::make_directory(parent, name.text(), 0o755).map(drop),
    }
}
