//! Carries a program out, step by step: in the shim for the pod, in its forked child for a container or an exec.
//! Nothing here allocates, and the first failing step ends it with its index and errno.

use core::ffi::CStr;

use crate::paths::{self, Missing, Path};
use crate::process::Start;
use crate::program::{Fields, Malformed, Step, Steps};
use crate::sys::{self, Memory};
use crate::wire;

impl From<Malformed> for i32 {
    fn from(_: Malformed) -> i32 {
        sys::EBADMSG
    }
}

/// What a program needs to know of the process that it prepares.
pub struct Context {
    /// The directory that is to become the root, once known and until it is the root.
    root: Option<i32>,
    start: Start,
}

impl Context {
    pub fn new(start: Start) -> Context {
        Context { root: None, start }
    }

    /// Runs all steps. Returns only on failure or when the program has no `EXECUTE`: (step index, errno).
    pub fn run(&mut self, program: &[u8]) -> Result<(), (u32, i32)> {
        let steps = Steps::new(program, wire::PROGRAM_MAGIC, wire::PROTOCOL_VERSION).ok_or((u32::MAX, sys::EPROTO))?;
        for (index, step) in steps.enumerate() {
            let index = index as u32;
            let step = step.map_err(|_| (index, sys::EBADMSG))?;
            let optional = step.flags & wire::STEP_OPTIONAL != 0;
            match self.step(step) {
                Err(_) if optional => {}
                Err(errno) => return Err((index, errno)),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn step(&mut self, step: Step<'_>) -> Result<(), i32> {
        let Step { operation, flags, mut fields } = step;
        let f = &mut fields;
        match operation {
            wire::OP_WRITE_FILE => write_file(f.text()?, f.bytes()?),
            wire::OP_UNSHARE => sys::unshare(f.number()? as usize).map(drop),
            wire::OP_HOSTNAME => sys::set_hostname(f.bytes()?).map(drop),
            wire::OP_LOOPBACK_UP => sys::loopback_up().map(drop),
            wire::OP_MOUNT => self.mount(f),
            wire::OP_ROOT => {
                self.root = Some(sys::open(sys::AT_FDCWD, f.text()?, sys::O_PATH | sys::O_DIRECTORY, 0)?);
                Ok(())
            }
            wire::OP_BIND => self.bind(f, flags),
            wire::OP_MAKE_DIRECTORY => {
                let (path, mode) = (f.text()?, f.number()? as usize);
                let owner = (f.number()? as u32, f.number()? as u32);
                let missing = Missing::Directory { mode, owner: Some(owner) };
                paths::ensure(self.root, path, missing).map(sys::close)
            }
            wire::OP_MAKE_NODE => self.make_node(f),
            wire::OP_SYMLINK => {
                let target = f.text()?;
                let (parent, name) = self.parent(f.text()?)?;
                let made = sys::symlink(target, parent, name);
                sys::close(parent);
                existing_is_fine(made)
            }
            wire::OP_ATTRIBUTES => {
                let place = paths::open_in(self.root, f.text()?, sys::O_PATH)?;
                let done = sys::mount_attributes(place, c"", sys::AT_EMPTY_PATH, f.number()?, 0);
                sys::close(place);
                done.map(drop)
            }
            wire::OP_MASK => self.mask(f.text()?, f.text()?),
            wire::OP_READ_ONLY => self.read_only(f.text()?),
            wire::OP_PIVOT => self.pivot(),
            wire::OP_CHANGE_DIRECTORY => sys::change_directory(f.text()?).map(drop),
            wire::OP_RLIMIT => sys::set_limit(f.number()? as usize, f.number()?, f.number()?).map(drop),
            wire::OP_KEYRING => sys::new_session_keyring().map(drop),
            wire::OP_TTY => self.terminal(f),
            wire::OP_STDIO => self.standard_streams(f.number()? as u32),
            wire::OP_IDENTITY => identity(f),
            wire::OP_NO_NEW_PRIVILEGES => sys::prctl(38, 1, 0).map(drop),
            wire::OP_SECCOMP => sys::set_filter(f.bytes()?).map(drop),
            wire::OP_UMASK => {
                sys::set_umask(f.number()? as usize);
                Ok(())
            }
            wire::OP_JOIN => self.join(),
            wire::OP_EXECUTE => Err(execute(f)),
            _ => Err(sys::EPROTO),
        }
    }

    /// The directory that holds the last component of `path`, and that component.
    fn parent<'p>(&self, path: &'p CStr) -> Result<(i32, &'p CStr), i32> {
        let bytes = path.to_bytes();
        let cut = bytes.iter().rposition(|byte| *byte == b'/').ok_or(sys::EINVAL)?;
        let mut directory = Path::new();
        directory.push(bytes.get(..=cut).unwrap_or(b"/"))?;
        let name = path.to_bytes_with_nul().get(cut + 1..).and_then(|name| CStr::from_bytes_with_nul(name).ok());
        let name = name.filter(|name| !name.is_empty()).ok_or(sys::EINVAL)?;
        let parent = paths::ensure(self.root, directory.text(), Missing::Directory { mode: 0o755, owner: None })?;
        Ok((parent, name))
    }

    fn mount(&self, f: &mut Fields<'_>) -> Result<(), i32> {
        let (source, target, kind) = (f.text()?, f.text()?, f.text()?);
        let flags = f.number()? as usize;
        let data = f.text()?;
        let kind = (!kind.is_empty()).then_some(kind);
        let data = (!data.is_empty()).then_some(data);
        if self.root.is_none() {
            return sys::mount(source, target, kind, flags, data).map(drop);
        }
        let place = paths::ensure(self.root, target, Missing::Directory { mode: 0o755, owner: None })?;
        let done = sys::change_directory_to(place).and_then(|_| sys::mount(source, c".", kind, flags, data));
        sys::close(place);
        done.map(drop)
    }

    fn bind(&self, f: &mut Fields<'_>, flags: u16) -> Result<(), i32> {
        let (source, sub_path, target) = (f.text()?, f.text()?, f.text()?);
        let (attributes, propagation) = (f.number()?, f.number()?);
        let recursive = if flags & wire::STEP_RECURSIVE != 0 { sys::AT_RECURSIVE } else { 0 };
        let clone = sys::OPEN_TREE_CLONE | recursive;
        let tree = if flags & wire::STEP_FROM_HOST != 0 {
            let own = sys::open(sys::AT_FDCWD, c"/proc/self/ns/mnt", sys::O_RDONLY, 0)?;
            sys::set_namespace(self.start.host_mounts, sys::CLONE_NEWNS)?;
            let tree = source_tree(source, sub_path, clone);
            sys::set_namespace(own, sys::CLONE_NEWNS)?;
            sys::close(own);
            tree?
        } else {
            source_tree(source, sub_path, clone)?
        };
        if propagation != 0 {
            sys::mount_attributes(tree, c"", sys::AT_EMPTY_PATH | recursive, 0, propagation)?;
        }
        let (all, attributes) = (attributes >> 63 != 0, attributes & !(1 << 63));
        if attributes != 0 {
            let recursive = if all { sys::AT_RECURSIVE } else { 0 };
            sys::mount_attributes(tree, c"", sys::AT_EMPTY_PATH | recursive, attributes, 0)?;
        }
        let place = if flags & wire::STEP_EXISTING_TARGET != 0 {
            paths::open_in(self.root, target, sys::O_PATH)?
        } else if sys::file_type(tree)? == 0o040000 {
            paths::ensure(self.root, target, Missing::Directory { mode: 0o755, owner: None })?
        } else {
            paths::ensure(self.root, target, Missing::File)?
        };
        attach(tree, place)
    }

    fn make_node(&self, f: &mut Fields<'_>) -> Result<(), i32> {
        let (path, mode, device) = (f.text()?, f.number()? as usize, f.number()?);
        let (uid, gid) = (f.number()? as u32, f.number()? as u32);
        let (parent, name) = self.parent(path)?;
        let made = sys::make_node(parent, name, mode, device)
            .and_then(|_| sys::change_mode(parent, name, mode & 0o7777))
            .and_then(|done| if uid | gid == 0 { Ok(done) } else { sys::change_owner(parent, name, uid, gid) });
        sys::close(parent);
        existing_is_fine(made)
    }

    fn mask(&self, path: &CStr, empty: &CStr) -> Result<(), i32> {
        let Some(place) = missing_is_fine(paths::open_in(self.root, path, sys::O_PATH))? else { return Ok(()) };
        let tree = if sys::file_type(place)? == 0o040000 {
            let tree = sys::open_tree(sys::AT_FDCWD, empty, sys::OPEN_TREE_CLONE)?;
            let hard = sys::ATTR_RDONLY | sys::ATTR_NOSUID | sys::ATTR_NODEV | sys::ATTR_NOEXEC;
            sys::mount_attributes(tree, c"", sys::AT_EMPTY_PATH, hard, 0)?;
            tree
        } else {
            let null = paths::open_in(self.root, c"/dev/null", sys::O_PATH)?;
            let tree = sys::open_tree(null, c"", sys::AT_EMPTY_PATH | sys::OPEN_TREE_CLONE)?;
            sys::close(null);
            tree
        };
        attach(tree, place)
    }

    fn read_only(&self, path: &CStr) -> Result<(), i32> {
        let Some(place) = missing_is_fine(paths::open_in(self.root, path, sys::O_PATH))? else { return Ok(()) };
        let tree = sys::open_tree(place, c"", sys::AT_EMPTY_PATH | sys::OPEN_TREE_CLONE | sys::AT_RECURSIVE)?;
        sys::mount_attributes(tree, c"", sys::AT_EMPTY_PATH | sys::AT_RECURSIVE, sys::ATTR_RDONLY, 0)?;
        attach(tree, place)
    }

    fn pivot(&mut self) -> Result<(), i32> {
        let root = self.root.take().ok_or(sys::EINVAL)?;
        // The descriptor may name the directory below the mount; the mount on top of it is what "." becomes.
        sys::change_directory_to(root)?;
        sys::pivot_root(c".", c".")?;
        sys::unmount_lazily(c".")?;
        sys::close(root);
        sys::change_directory(c"/").map(drop)
    }

    fn terminal(&self, f: &mut Fields<'_>) -> Result<(), i32> {
        let (columns, rows) = (f.number()? as u16, f.number()? as u16);
        let (console, uid) = (f.number()? != 0, f.number()? as u32);
        let master = paths::open_in(self.root, c"/dev/pts/ptmx", sys::O_RDWR | sys::O_NOCTTY | sys::O_NONBLOCK)?;
        sys::terminal_unlock(master)?;
        let slave = sys::terminal_control(master, 0x5441, sys::O_RDWR | sys::O_NOCTTY | sys::O_CLOEXEC)? as i32;
        if columns != 0 && rows != 0 {
            sys::terminal_size(master, columns, rows)?;
        }
        sys::fchown(slave, uid)?;
        if console {
            let place = paths::ensure(self.root, c"/dev/console", Missing::File)?;
            let tree = sys::open_tree(slave, c"", sys::AT_EMPTY_PATH | sys::OPEN_TREE_CLONE)?;
            attach(tree, place)?;
        }
        sys::set_session()?;
        sys::terminal_control(slave, 0x540e, 0)?;
        for standard in 0..3 {
            sys::duplicate(slave, standard)?;
        }
        sys::send(self.start.report, &[b'T'; 8], Some(master))?;
        sys::close(master);
        ready_for_execute()
    }

    fn standard_streams(&self, uid: u32) -> Result<(), i32> {
        let _ = sys::set_session();
        for (standard, stream) in self.start.streams.iter().enumerate() {
            let Some(stream) = *stream else { continue };
            // A process that is not root opens /dev/stdout again through /proc, which needs the pipe to be its own.
            if uid != 0 && sys::file_type(stream)? == 0o010000 {
                sys::fchown(stream, uid)?;
            }
            sys::duplicate(stream, standard as i32)?;
        }
        ready_for_execute()
    }

    fn join(&self) -> Result<(), i32> {
        let pid = self.start.container;
        let mounts = sys::open(sys::AT_FDCWD, paths::of_process(pid, b"ns/mnt")?.text(), sys::O_RDONLY, 0)?;
        let cgroup = sys::open(sys::AT_FDCWD, paths::of_process(pid, b"ns/cgroup")?.text(), sys::O_RDONLY, 0);
        sys::set_namespace(mounts, sys::CLONE_NEWNS)?;
        if let Ok(cgroup) = cgroup {
            sys::set_namespace(cgroup, sys::CLONE_NEWCGROUP)?;
        }
        Ok(())
    }
}

/// The signal mask is part of what a program inherits, and so is every descriptor that is not closed on exec.
fn ready_for_execute() -> Result<(), i32> {
    sys::close_range_on_exec(3);
    sys::set_signal_mask(0).map(drop)
}

fn attach(tree: i32, place: i32) -> Result<(), i32> {
    let is_directory = |it: i32| sys::file_type(it).map(|kind| kind == 0o040000);
    let done = match sys::move_mount(tree, place) {
        // The kernel has one word for all that does not fit; a directory over a file, or the reverse, is the usual case.
        Err(sys::EINVAL) if is_directory(tree) != is_directory(place) => Err(sys::ENOTDIR),
        other => other,
    };
    sys::close(tree);
    sys::close(place);
    done.map(drop)
}

fn source_tree(source: &CStr, sub_path: &CStr, clone: usize) -> Result<i32, i32> {
    if sub_path.is_empty() {
        return sys::open_tree(sys::AT_FDCWD, source, clone);
    }
    let base = sys::open(sys::AT_FDCWD, source, sys::O_PATH | sys::O_DIRECTORY, 0)?;
    let place = sys::open_resolved(base, sub_path, sys::O_PATH, 0, sys::RESOLVE_BENEATH);
    sys::close(base);
    let place = place?;
    let tree = sys::open_tree(place, c"", sys::AT_EMPTY_PATH | clone);
    sys::close(place);
    tree
}

fn existing_is_fine(made: sys::Sys) -> Result<(), i32> {
    match made {
        Err(sys::EEXIST) | Ok(_) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn missing_is_fine(found: Result<i32, i32>) -> Result<Option<i32>, i32> {
    match found {
        Ok(place) => Ok(Some(place)),
        Err(sys::ENOENT | sys::ENOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn write_file(path: &CStr, data: &[u8]) -> Result<(), i32> {
    let file = sys::open(sys::AT_FDCWD, path, sys::O_WRONLY, 0)?;
    let done = sys::write(file, data);
    sys::close(file);
    done.map(drop)
}

fn identity(f: &mut Fields<'_>) -> Result<(), i32> {
    let (uid, gid) = (f.number()? as u32, f.number()? as u32);
    let (bounding, effective, permitted) = (f.number()?, f.number()?, f.number()?);
    let (inheritable, ambient) = (f.number()?, f.number()?);
    let count = f.number()? as usize;
    let mut groups = [0u32; 256];
    for group in groups.get_mut(..count).ok_or(sys::E2BIG)? {
        *group = f.number()? as u32;
    }
    for capability in 0..64usize {
        if bounding >> capability & 1 == 0 && sys::prctl(24, capability, 0) == Err(sys::EINVAL) {
            break;
        }
    }
    sys::prctl(8, 1, 0)?;
    sys::set_groups(groups.get(..count).unwrap_or(&[]))?;
    sys::set_group(gid)?;
    sys::set_user(uid)?;
    sys::prctl(8, 0, 0)?;
    sys::set_capabilities(effective, permitted, inheritable)?;
    sys::prctl(47, 4, 0)?;
    for capability in (0..64usize).filter(|it| ambient >> it & 1 == 1) {
        sys::prctl(47, 2, capability)?;
    }
    Ok(())
}

/// Replaces the process; returns the errno if it cannot.
fn execute(f: &mut Fields<'_>) -> i32 {
    match try_execute(f) {
        Err(errno) | Ok(errno) => errno,
    }
}

fn try_execute(f: &mut Fields<'_>) -> Result<i32, i32> {
    let (arguments, environment) = (f.number()? as usize, f.number()? as usize);
    let search = f.text()?;
    if arguments == 0 || arguments > 1 << 20 || environment > 1 << 20 {
        return Err(sys::EINVAL);
    }
    let mut memory = Memory::new((arguments + environment + 2) * size_of::<usize>())?;
    let pointers = memory.words_mut();
    let mut program: &CStr = c"";
    for index in 0..arguments {
        let argument = f.text()?;
        if index == 0 {
            program = argument;
        }
        *pointers.get_mut(index).ok_or(sys::E2BIG)? = argument.as_ptr() as usize;
    }
    for index in 0..environment {
        *pointers.get_mut(arguments + 1 + index).ok_or(sys::E2BIG)? = f.text()?.as_ptr() as usize;
    }
    let argv = pointers.as_ptr();
    let envp = argv.wrapping_add(arguments + 1);
    let attempt = |path: &CStr| {
        // SAFETY: both arrays end with the zero word that fresh memory holds there, and every entry is a C string.
        unsafe { sys::execute(path, argv, envp) }
    };
    let name = program.to_bytes();
    if name.is_empty() {
        return Ok(sys::ENOENT);
    }
    if name.contains(&b'/') {
        return Ok(attempt(program));
    }
    let mut errno = sys::ENOENT;
    for directory in search.to_bytes().split(|byte| *byte == b':') {
        let mut path = Path::new();
        path.push(if directory.is_empty() { b"." } else { directory })?;
        path.push(b"/")?;
        path.push(name)?;
        match attempt(path.text()) {
            sys::ENOENT | sys::ENOTDIR => {}
            sys::EACCES => errno = sys::EACCES,
            other => return Ok(other),
        }
    }
    Ok(errno)
}
