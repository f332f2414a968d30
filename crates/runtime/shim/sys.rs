//! System calls as functions: typed arguments in, `Result<usize, errno>` out. The one other module with `unsafe`.

use core::ffi::CStr;

pub use crate::arch::{EpollEvent, O_DIRECTORY, O_NOFOLLOW};
use crate::arch::{number as n, syscall};

/// What a system call gives: its value, or the errno.
pub type Sys = Result<usize, i32>;

pub const ENOENT: i32 = 2;
pub const EINTR: i32 = 4;
pub const EAGAIN: i32 = 11;
pub const EACCES: i32 = 13;
pub const EEXIST: i32 = 17;
pub const ENOTDIR: i32 = 20;
pub const EINVAL: i32 = 22;
pub const ESRCH: i32 = 3;
pub const EBUSY: i32 = 16;
pub const ENOSPC: i32 = 28;
pub const EBADMSG: i32 = 74;
pub const EPROTO: i32 = 71;
pub const E2BIG: i32 = 7;

pub const AT_FDCWD: i32 = -100;
pub const O_RDONLY: usize = 0;
pub const O_WRONLY: usize = 1;
pub const O_RDWR: usize = 2;
pub const O_CREAT: usize = 0o100;
pub const O_NOCTTY: usize = 0o400;
pub const O_TRUNC: usize = 0o1000;
pub const O_APPEND: usize = 0o2000;
pub const O_NONBLOCK: usize = 0o4000;
pub const O_CLOEXEC: usize = 0o2000000;
pub const O_PATH: usize = 0o10000000;

/// How `openat2` looks a path up: as if the directory were the root, and never through /proc's magic links.
pub const RESOLVE_IN_ROOT: u64 = 0x10 | 0x02;
/// How a sub path of a volume is looked up: leaving it is an error.
pub const RESOLVE_BENEATH: u64 = 0x08 | 0x02;

pub const CLONE_NEWNS: usize = 0x20000;
pub const CLONE_NEWPID: usize = 0x20000000;
pub const CLONE_NEWCGROUP: usize = 0x02000000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

pub const ATTR_RDONLY: u64 = 1;
pub const ATTR_NOSUID: u64 = 2;
pub const ATTR_NODEV: u64 = 4;
pub const ATTR_NOEXEC: u64 = 8;
pub const AT_EMPTY_PATH: usize = 0x1000;
pub const AT_RECURSIVE: usize = 0x8000;
pub const OPEN_TREE_CLONE: usize = 1;

pub const EPOLLIN: u32 = 1;

/// The longest path, its terminator included.
pub const PATH_BYTES: usize = 4096;

fn call(number: usize, a: [usize; 6]) -> Sys {
    // SAFETY: every caller in this file passes what this call expects; memory it names outlives the call.
    let result = unsafe { syscall(number, a) };
    if (-4095..0).contains(&result) { Err(-result as i32) } else { Ok(result as usize) }
}
fn fd(fd: i32) -> usize {
    fd as isize as usize
}
fn s(text: &CStr) -> usize {
    text.as_ptr() as usize
}
fn optional(text: Option<&CStr>) -> usize {
    text.map_or(0, s)
}

pub fn exit(code: i32) -> ! {
    let _ = call(n::EXIT_GROUP, [code as usize, 0, 0, 0, 0, 0]);
    // A seccomp filter may have refused even that.
    crate::arch::trap()
}
pub fn read(from: i32, buffer: &mut [u8]) -> Sys {
    call(n::READ, [fd(from), buffer.as_mut_ptr() as usize, buffer.len(), 0, 0, 0])
}
pub fn write(to: i32, bytes: &[u8]) -> Sys {
    call(n::WRITE, [fd(to), bytes.as_ptr() as usize, bytes.len(), 0, 0, 0])
}
pub fn close(it: i32) {
    let _ = call(n::CLOSE, [fd(it), 0, 0, 0, 0, 0]);
}
pub fn close_range_on_exec(first: usize) {
    let _ = call(n::CLOSE_RANGE, [first, u32::MAX as usize, 4, 0, 0, 0]);
}
pub fn seek_end(it: i32) -> Sys {
    call(n::LSEEK, [fd(it), 0, 2, 0, 0, 0])
}
pub fn truncate(it: i32, length: u64) -> Sys {
    call(n::FTRUNCATE, [fd(it), length as usize, 0, 0, 0, 0])
}
pub fn open(at: i32, path: &CStr, flags: usize, mode: usize) -> Result<i32, i32> {
    call(n::OPENAT, [fd(at), s(path), flags | O_CLOEXEC, mode, 0, 0]).map(|it| it as i32)
}
pub fn open_resolved(at: i32, path: &CStr, flags: usize, mode: u64, resolve: u64) -> Result<i32, i32> {
    let how = [(flags | O_CLOEXEC) as u64, mode, resolve];
    call(n::OPENAT2, [fd(at), s(path), how.as_ptr() as usize, 24, 0, 0]).map(|it| it as i32)
}
pub fn duplicate(from: i32, to: i32) -> Sys {
    if from == to {
        return call(n::FCNTL, [fd(from), 2, 0, 0, 0, 0]);
    }
    call(n::DUP3, [fd(from), fd(to), 0, 0, 0, 0])
}
/// A duplicate with a number of at least `least`, closed on exec.
pub fn duplicate_above(from: i32, least: usize) -> Result<i32, i32> {
    call(n::FCNTL, [fd(from), 1030, least, 0, 0, 0]).map(|it| it as i32)
}
pub fn set_nonblocking(it: i32) -> Sys {
    let flags = call(n::FCNTL, [fd(it), 3, 0, 0, 0, 0])?;
    call(n::FCNTL, [fd(it), 4, flags | O_NONBLOCK, 0, 0, 0])
}
pub fn pipe() -> Result<(i32, i32), i32> {
    let mut pair = [0i32; 2];
    call(n::PIPE2, [pair.as_mut_ptr() as usize, O_CLOEXEC, 0, 0, 0, 0])?;
    Ok((pair[0], pair[1]))
}
/// A pair of connected sequenced-packet sockets.
pub fn socket_pair() -> Result<(i32, i32), i32> {
    let mut pair = [0i32; 2];
    call(n::SOCKETPAIR, [1, 5 | O_CLOEXEC, 0, pair.as_mut_ptr() as usize, 0, 0])?;
    Ok((pair[0], pair[1]))
}
pub fn accept(listener: i32) -> Result<i32, i32> {
    call(n::ACCEPT4, [fd(listener), 0, 0, O_CLOEXEC | O_NONBLOCK, 0, 0]).map(|it| it as i32)
}

#[repr(C)]
struct MessageHeader {
    name: usize,
    name_length: usize,
    vectors: usize,
    vector_count: usize,
    control: usize,
    control_length: usize,
    flags: usize,
}

/// Sends one packet, with a descriptor if one is given.
pub fn send(to: i32, bytes: &[u8], descriptor: Option<i32>) -> Sys {
    let vector = [bytes.as_ptr() as usize, bytes.len()];
    let control = [20u64, 1 | 1 << 32, descriptor.unwrap_or(0) as u32 as u64];
    let with = descriptor.is_some();
    let header = MessageHeader {
        name: 0,
        name_length: 0,
        vectors: vector.as_ptr() as usize,
        vector_count: 1,
        control: if with { control.as_ptr() as usize } else { 0 },
        control_length: if with { 24 } else { 0 },
        flags: 0,
    };
    call(n::SENDMSG, [fd(to), &header as *const _ as usize, 0x4000, 0, 0, 0])
}

/// Receives one packet and up to `descriptors.len()` descriptors (-1 where none came). More than that, or a
/// truncated packet, is EBADMSG, and nothing stays open.
pub fn receive(from: i32, buffer: &mut [u8], descriptors: &mut [i32]) -> Sys {
    let vector = [buffer.as_mut_ptr() as usize, buffer.len()];
    let mut control = [0u64; 10];
    let mut header = MessageHeader {
        name: 0,
        name_length: 0,
        vectors: vector.as_ptr() as usize,
        vector_count: 1,
        control: control.as_mut_ptr() as usize,
        control_length: 16 + 8 * descriptors.len().div_ceil(2),
        flags: 0,
    };
    descriptors.fill(-1);
    let length = call(n::RECVMSG, [fd(from), &mut header as *mut _ as usize, 0x4000_0000, 0, 0, 0])?;
    let data = (control[0] as usize).saturating_sub(16) / 4;
    if header.control_length >= 16 && control[1] == (1 | 1 << 32) {
        for (index, slot) in descriptors.iter_mut().enumerate().take(data) {
            let word = control.get(2 + index / 2).copied().unwrap_or(0);
            *slot = (word >> (32 * (index % 2))) as u32 as i32;
        }
    }
    if header.flags & 0x28 != 0 {
        for slot in descriptors.iter_mut().filter(|slot| **slot >= 0) {
            close(*slot);
            *slot = -1;
        }
        return Err(EBADMSG);
    }
    Ok(length)
}

pub fn epoll_create() -> Result<i32, i32> {
    call(n::EPOLL_CREATE1, [O_CLOEXEC, 0, 0, 0, 0, 0]).map(|it| it as i32)
}
pub fn epoll_add(epoll: i32, it: i32, data: u64) -> Sys {
    let event = EpollEvent { events: EPOLLIN, data };
    call(n::EPOLL_CTL, [fd(epoll), 1, fd(it), &event as *const _ as usize, 0, 0])
}
pub fn epoll_remove(epoll: i32, it: i32) {
    let event = EpollEvent { events: 0, data: 0 };
    let _ = call(n::EPOLL_CTL, [fd(epoll), 2, fd(it), &event as *const _ as usize, 0, 0]);
}
pub fn epoll_wait(epoll: i32, events: &mut [EpollEvent], timeout_ms: i32) -> Sys {
    let timeout = timeout_ms as isize as usize;
    call(n::EPOLL_PWAIT, [fd(epoll), events.as_mut_ptr() as usize, events.len(), timeout, 0, 8])
}
/// Blocks every signal; returns a descriptor that becomes readable on SIGCHLD.
pub fn child_signals() -> Result<i32, i32> {
    set_signal_mask(u64::MAX)?;
    let mask = 1u64 << 16;
    call(n::SIGNALFD4, [usize::MAX, &mask as *const _ as usize, 8, O_CLOEXEC | O_NONBLOCK, 0, 0]).map(|it| it as i32)
}
pub fn set_signal_mask(mask: u64) -> Sys {
    call(n::RT_SIGPROCMASK, [2, &mask as *const _ as usize, 0, 8, 0, 0])
}
/// Reaps one child if there is one to reap: pid and wait status.
pub fn reap() -> Option<(i32, i32)> {
    let mut status = 0i32;
    match call(n::WAIT4, [usize::MAX, &mut status as *mut _ as usize, 1, 0, 0, 0]) {
        Ok(pid) if pid > 0 => Some((pid as i32, status)),
        _ => None,
    }
}
/// Waits for one child, however long it takes.
pub fn wait_any() -> Sys {
    call(n::WAIT4, [usize::MAX, 0, 0, 0, 0, 0])
}
pub fn kill(pid: i32, signal: i32) -> Sys {
    call(n::KILL, [fd(pid), signal as usize, 0, 0, 0, 0])
}
/// fork(2), with new namespaces and into a cgroup. 0 in the child.
pub fn fork(namespaces: usize, cgroup: Option<i32>) -> Result<i32, i32> {
    let mut arguments = [0u64; 11];
    arguments[0] = namespaces as u64;
    arguments[4] = 17;
    if let Some(cgroup) = cgroup {
        arguments[0] |= CLONE_INTO_CGROUP;
        arguments[10] = cgroup as u64;
    }
    call(n::CLONE3, [arguments.as_ptr() as usize, 88, 0, 0, 0, 0]).map(|pid| pid as i32)
}
pub fn process_id() -> i32 {
    call(n::GETPID, [0; 6]).unwrap_or(0) as i32
}
/// # Safety
/// `arguments` and `environment` must be null-terminated arrays of C strings.
pub unsafe fn execute(path: &CStr, arguments: *const usize, environment: *const usize) -> i32 {
    call(n::EXECVE, [s(path), arguments as usize, environment as usize, 0, 0, 0]).err().unwrap_or(EINVAL)
}
pub fn set_session() -> Sys {
    call(n::SETSID, [0; 6])
}
pub fn set_namespace(it: i32, kind: usize) -> Sys {
    call(n::SETNS, [fd(it), kind, 0, 0, 0, 0])
}
pub fn unshare(flags: usize) -> Sys {
    call(n::UNSHARE, [flags, 0, 0, 0, 0, 0])
}
pub fn set_hostname(name: &[u8]) -> Sys {
    call(n::SETHOSTNAME, [name.as_ptr() as usize, name.len(), 0, 0, 0, 0])
}
pub fn change_directory(path: &CStr) -> Sys {
    call(n::CHDIR, [s(path), 0, 0, 0, 0, 0])
}
pub fn change_directory_to(it: i32) -> Sys {
    call(n::FCHDIR, [fd(it), 0, 0, 0, 0, 0])
}
pub fn mount(source: &CStr, target: &CStr, kind: Option<&CStr>, flags: usize, data: Option<&CStr>) -> Sys {
    call(n::MOUNT, [s(source), s(target), optional(kind), flags, optional(data), 0])
}
pub fn unmount_lazily(target: &CStr) -> Sys {
    call(n::UMOUNT2, [s(target), 2, 0, 0, 0, 0])
}
pub fn pivot_root(new: &CStr, old: &CStr) -> Sys {
    call(n::PIVOT_ROOT, [s(new), s(old), 0, 0, 0, 0])
}
pub fn open_tree(at: i32, path: &CStr, flags: usize) -> Result<i32, i32> {
    call(n::OPEN_TREE, [fd(at), s(path), flags | O_CLOEXEC, 0, 0, 0]).map(|it| it as i32)
}
/// Attaches a detached mount at the place that `target` names.
pub fn move_mount(tree: i32, target: i32) -> Sys {
    call(n::MOVE_MOUNT, [fd(tree), s(c""), fd(target), s(c""), 0x44, 0])
}
pub fn mount_attributes(at: i32, path: &CStr, flags: usize, set: u64, propagation: u64) -> Sys {
    let attributes = [set, 0, propagation, 0];
    call(n::MOUNT_SETATTR, [fd(at), s(path), flags, attributes.as_ptr() as usize, 32, 0])
}
pub fn make_directory(at: i32, path: &CStr, mode: usize) -> Sys {
    call(n::MKDIRAT, [fd(at), s(path), mode, 0, 0, 0])
}
pub fn make_node(at: i32, path: &CStr, mode: usize, device: u64) -> Sys {
    call(n::MKNODAT, [fd(at), s(path), mode, device as usize, 0, 0])
}
pub fn symlink(target: &CStr, at: i32, path: &CStr) -> Sys {
    call(n::SYMLINKAT, [s(target), fd(at), s(path), 0, 0, 0])
}
pub fn rename(at: i32, from: &CStr, to: &CStr) -> Sys {
    call(n::RENAMEAT, [fd(at), s(from), fd(at), s(to), 0, 0])
}
pub fn read_link(path: &CStr, into: &mut [u8]) -> Sys {
    call(n::READLINKAT, [fd(AT_FDCWD), s(path), into.as_mut_ptr() as usize, into.len(), 0, 0])
}
pub fn remove_file(path: &CStr) -> Sys {
    call(n::UNLINKAT, [fd(AT_FDCWD), s(path), 0, 0, 0, 0])
}
pub fn change_owner(at: i32, path: &CStr, uid: u32, gid: u32) -> Sys {
    call(n::FCHOWNAT, [fd(at), s(path), uid as usize, gid as usize, 0x100, 0])
}
pub fn change_mode(at: i32, path: &CStr, mode: usize) -> Sys {
    call(n::FCHMODAT, [fd(at), s(path), mode, 0, 0, 0])
}
pub fn set_umask(mask: usize) {
    let _ = call(n::UMASK, [mask, 0, 0, 0, 0, 0]);
}
/// The file type bits of what a descriptor names.
pub fn file_type(it: i32) -> Result<u16, i32> {
    let mut buffer = [0u32; 64];
    call(n::STATX, [fd(it), s(c""), AT_EMPTY_PATH, 1, buffer.as_mut_ptr() as usize, 0])?;
    Ok(buffer[7] as u16 & 0o170000)
}
/// The size of a regular file.
pub fn file_size(it: i32) -> Result<u64, i32> {
    let mut buffer = [0u64; 32];
    call(n::STATX, [fd(it), s(c""), AT_EMPTY_PATH, 0x201, buffer.as_mut_ptr() as usize, 0])?;
    Ok(buffer[5])
}
pub fn set_limit(resource: usize, soft: u64, hard: u64) -> Sys {
    let limit = [soft, hard];
    call(n::PRLIMIT64, [0, resource, limit.as_ptr() as usize, 0, 0, 0])
}
pub fn new_session_keyring() -> Sys {
    call(n::KEYCTL, [1, 0, 0, 0, 0, 0])
}
pub fn prctl(option: usize, a: usize, b: usize) -> Sys {
    call(n::PRCTL, [option, a, b, 0, 0, 0])
}
pub fn set_groups(groups: &[u32]) -> Sys {
    call(n::SETGROUPS, [groups.len(), groups.as_ptr() as usize, 0, 0, 0, 0])
}
pub fn set_user(uid: u32) -> Sys {
    call(n::SETRESUID, [uid as usize, uid as usize, uid as usize, 0, 0, 0])
}
pub fn set_group(gid: u32) -> Sys {
    call(n::SETRESGID, [gid as usize, gid as usize, gid as usize, 0, 0, 0])
}
pub fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> Sys {
    let header = [0x2008_0522u32, 0];
    let data = [
        effective as u32,
        permitted as u32,
        inheritable as u32,
        (effective >> 32) as u32,
        (permitted >> 32) as u32,
        (inheritable >> 32) as u32,
    ];
    call(n::CAPSET, [header.as_ptr() as usize, data.as_ptr() as usize, 0, 0, 0, 0])
}
/// Installs a filter of 8-byte instructions.
pub fn set_filter(filter: &[u8]) -> Sys {
    #[repr(C)]
    struct Program {
        count: u16,
        filter: usize,
    }
    let program = Program { count: (filter.len() / 8) as u16, filter: filter.as_ptr() as usize };
    call(n::SECCOMP, [1, 0, &program as *const _ as usize, 0, 0, 0])
}
pub fn terminal_control(it: i32, request: usize, argument: usize) -> Sys {
    call(n::IOCTL, [fd(it), request, argument, 0, 0, 0])
}
pub fn terminal_unlock(it: i32) -> Sys {
    let zero = 0i32;
    call(n::IOCTL, [fd(it), 0x4004_5431, &zero as *const _ as usize, 0, 0, 0])
}
pub fn terminal_size(it: i32, columns: u16, rows: u16) -> Sys {
    let size = [rows, columns, 0, 0];
    call(n::IOCTL, [fd(it), 0x5414, size.as_ptr() as usize, 0, 0, 0])
}
/// Sets IFF_UP on `lo` of the current network namespace.
pub fn loopback_up() -> Sys {
    let socket = call(n::SOCKET, [2, 2 | O_CLOEXEC, 0, 0, 0, 0])? as i32;
    let mut request = [0u8; 40];
    request[..2].copy_from_slice(b"lo");
    request[16..18].copy_from_slice(&1u16.to_le_bytes());
    let result = call(n::IOCTL, [fd(socket), 0x8914, request.as_ptr() as usize, 0, 0, 0]);
    close(socket);
    result
}
/// Nanoseconds since 1970.
pub fn now_ns() -> u64 {
    clock_ns(0)
}
/// Nanoseconds since some moment, which nobody sets back. Never 0.
pub fn monotonic_ns() -> u64 {
    clock_ns(1).max(1)
}
fn clock_ns(clock: usize) -> u64 {
    let mut time = [0u64; 2];
    let _ = call(n::CLOCK_GETTIME, [clock, time.as_mut_ptr() as usize, 0, 0, 0, 0]);
    time[0].wrapping_mul(1_000_000_000).wrapping_add(time[1])
}

/// Memory straight from the kernel, given back when dropped.
pub struct Memory {
    address: usize,
    length: usize,
}

impl Memory {
    /// Fresh zeroed memory.
    pub fn new(length: usize) -> Result<Memory, i32> {
        let address = call(n::MMAP, [0, length, 3, 0x22, usize::MAX, 0])?;
        Ok(Memory { address, length })
    }
    /// A private view of a file.
    pub fn of_file(it: i32, length: usize) -> Result<Memory, i32> {
        let address = call(n::MMAP, [0, length, 1, 2, fd(it), 0])?;
        Ok(Memory { address, length })
    }
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is ours, this long, and readable until dropped.
        unsafe { core::slice::from_raw_parts(self.address as *const u8, self.length) }
    }
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; only `new` gives writable memory, and only its users call this.
        unsafe { core::slice::from_raw_parts_mut(self.address as *mut u8, self.length) }
    }
    pub fn words_mut(&mut self) -> &mut [usize] {
        // SAFETY: as above; mappings are aligned to pages.
        unsafe { core::slice::from_raw_parts_mut(self.address as *mut usize, self.length / 8) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = call(n::MUNMAP, [self.address, self.length, 0, 0, 0, 0]);
    }
}

/// Changes the owner of what a descriptor names, not its group.
pub fn fchown(it: i32, uid: u32) -> Sys {
    call(n::FCHOWNAT, [fd(it), s(c""), uid as usize, u32::MAX as usize, AT_EMPTY_PATH, 0])
}
/// Closes everything but the standard streams.
pub fn close_all() {
    let _ = call(n::CLOSE_RANGE, [3, u32::MAX as usize, 0, 0, 0, 0]);
}
