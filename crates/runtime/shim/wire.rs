//! What the agent and the shim say to each other: message kinds, program steps, limits. Compiled into both.

/// Version of the messages and of the programs; a shim refuses another one in `HELLO`.
pub const PROTOCOL_VERSION: u32 = 1;
/// The first four bytes of every program.
pub const PROGRAM_MAGIC: u32 = 0x3150_4c4b;
/// The length in bytes of every message.
pub const MESSAGE_BYTES: usize = 64;
/// The largest program that is accepted, arguments and environment included.
pub const PROGRAM_BYTES_MAX: usize = 4 << 20;
/// How many processes (containers and execs, running or not yet removed) one shim keeps.
pub const PROCESSES_MAX: usize = 128;
/// How many agents may be connected at once.
pub const CONNECTIONS_MAX: usize = 8;
/// How many attached readers one container has at most.
pub const ATTACHED_MAX: usize = 4;
/// How many file descriptors one message carries at most.
pub const DESCRIPTORS_MAX: usize = 6;
/// A log line longer than this is cut into partial lines (CRI's 16 KiB).
pub const LOG_LINE_BYTES_MAX: usize = 16 << 10;

/// Agent: which version do you speak? Reply: `a` version, `b` pid.
pub const HELLO: u32 = 1;
/// Agent: start a container. Descriptors: program, then log (flag), then cgroup (flag). `a` flags, `b` log cap, `c` log notice size.
pub const START: u32 = 2;
/// Agent: run a process inside container `b`. Descriptors: program, then stdin/stdout/stderr unless a tty, then cgroup (flag).
pub const EXEC: u32 = 3;
/// Agent: send signal `a` to the process.
pub const SIGNAL: u32 = 4;
/// Agent: tell every process; replies with one `PROCESS` each and a last `STATUS`.
pub const STATUS: u32 = 5;
/// Agent: hand me the write end of stdin, or the terminal.
pub const STDIN: u32 = 6;
/// Agent: close your copy of stdin's write end.
pub const CLOSE_STDIN: u32 = 7;
/// Agent: copy live output to these descriptors (stdout, stderr).
pub const ATTACH: u32 = 8;
/// Agent: write the log to this descriptor from now on.
pub const LOG: u32 = 9;
/// Agent: forget this exited process.
pub const REMOVE: u32 = 10;
/// Agent: kill everything and end.
pub const SHUTDOWN: u32 = 11;
/// Shim: one process of a `STATUS` answer.
pub const PROCESS: u32 = 32;
/// Shim, unsolicited: a process ended. `a` wait status, `b` started, `c` finished (ns since 1970), `d` dropped lines.
pub const EXITED: u32 = 33;
/// Shim, unsolicited: the log passed its notice size, which is `a` bytes now.
pub const LOG_GREW: u32 = 34;

/// `START`/`EXEC` flag: the program opens a terminal and sends its master.
pub const FLAG_TTY: u64 = 1;
/// `START` flag: keep a pipe to stdin open.
pub const FLAG_STDIN: u64 = 2;
/// `START` flag: a log descriptor comes along.
pub const FLAG_LOG: u64 = 4;
/// A cgroup v2 directory comes along; the process is born in it.
pub const FLAG_CGROUP: u64 = 8;
/// `START` flag: a PID namespace of its own.
pub const FLAG_OWN_PID: u64 = 16;
/// `START` flag: the PID namespace that the pod's containers share.
pub const FLAG_POD_PID: u64 = 32;
/// `EXEC` flag: stdin comes along (before stdout and stderr); without it stdin is /dev/null.
pub const FLAG_EXEC_STDIN: u64 = 64;

/// Process states in a `PROCESS` message (`d`).
pub const STATE_FREE: u32 = 0;
/// The program is still being interpreted.
pub const STATE_STARTING: u32 = 1;
/// The process runs.
pub const STATE_RUNNING: u32 = 2;
/// The process ended and its exit is kept.
pub const STATE_EXITED: u32 = 3;
/// The program failed; the slot is freed as soon as the child is reaped.
pub const STATE_FAILED: u32 = 4;

/// A step whose failure is ignored.
pub const STEP_OPTIONAL: u16 = 1;
/// A bind mount that takes the mounts below its source along.
pub const STEP_RECURSIVE: u16 = 2;
/// A bind mount whose source is looked up in the host's mount namespace and stays its peer.
pub const STEP_FROM_HOST: u16 = 4;
/// A bind mount whose missing target is not created.
pub const STEP_EXISTING_TARGET: u16 = 8;

/// path, data: write data to a file.
pub const OP_WRITE_FILE: u16 = 1;
/// flags: unshare(2).
pub const OP_UNSHARE: u16 = 2;
/// name: sethostname(2).
pub const OP_HOSTNAME: u16 = 3;
/// bring `lo` up.
pub const OP_LOOPBACK_UP: u16 = 4;
/// source, target, type, flags, data: mount(2) on a target inside the root once it is known.
pub const OP_MOUNT: u16 = 5;
/// path: this directory becomes the root in which later paths are resolved.
pub const OP_ROOT: u16 = 6;
/// source, sub path, target, attributes, propagation: bind mount.
pub const OP_BIND: u16 = 7;
/// path, mode, uid, gid: make a directory with its parents.
pub const OP_MAKE_DIRECTORY: u16 = 8;
/// path, mode, device: make a device node.
pub const OP_MAKE_NODE: u16 = 9;
/// target, path: make a symbolic link.
pub const OP_SYMLINK: u16 = 10;
/// path, attributes: mount_setattr(2) on an existing mount.
pub const OP_ATTRIBUTES: u16 = 11;
/// path, empty directory: hide a path behind /dev/null or an empty directory; a missing path is fine.
pub const OP_MASK: u16 = 12;
/// path: bind a path read-only on itself; a missing path is fine.
pub const OP_READ_ONLY: u16 = 13;
/// make the root the real one and drop the old one.
pub const OP_PIVOT: u16 = 14;
/// path: chdir(2).
pub const OP_CHANGE_DIRECTORY: u16 = 15;
/// resource, soft, hard.
pub const OP_RLIMIT: u16 = 16;
/// a session keyring of its own.
pub const OP_KEYRING: u16 = 17;
/// columns, rows, console flag: open a terminal, make it the controlling one, send its master to the shim.
pub const OP_TTY: u16 = 18;
/// new session, standard streams from the shim.
pub const OP_STDIO: u16 = 19;
/// uid, gid, bounding, effective, permitted, inheritable, ambient, group count, groups.
pub const OP_IDENTITY: u16 = 20;
/// no_new_privs.
pub const OP_NO_NEW_PRIVILEGES: u16 = 21;
/// bytes: a seccomp filter.
pub const OP_SECCOMP: u16 = 22;
/// mask: umask(2).
pub const OP_UMASK: u16 = 23;
/// enter the mount and cgroup namespaces of the exec's container.
pub const OP_JOIN: u16 = 24;
/// argument count, environment count, search path, arguments, environment: execve(2).
pub const OP_EXECUTE: u16 = 25;

/// One message of either direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: u32,
    /// 0, or the errno of a failed request.
    pub status: i32,
    /// Chosen by the agent, repeated in the reply; 0 in unsolicited messages.
    pub request: u64,
    /// Which process is meant, a number that the agent chose.
    pub token: u64,
    /// Argument; its meaning depends on `kind`.
    pub a: u64,
    /// Argument; its meaning depends on `kind`.
    pub b: u64,
    /// Argument; its meaning depends on `kind`.
    pub c: u64,
    /// Argument; its meaning depends on `kind`.
    pub d: u64,
}

impl Message {
    /// The bytes on the wire.
    pub fn encode(&self) -> [u8; MESSAGE_BYTES] {
        let mut out = [0u8; MESSAGE_BYTES];
        let words = [
            self.kind as u64 | (self.status as u32 as u64) << 32,
            self.request,
            self.token,
            self.a,
            self.b,
            self.c,
            self.d,
        ];
        for (chunk, word) in out.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        out
    }

    /// The message in these bytes.
    pub fn decode(bytes: &[u8; MESSAGE_BYTES]) -> Message {
        let mut words = [0u64; 8];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            let mut le = [0u8; 8];
            le.copy_from_slice(chunk);
            *word = u64::from_le_bytes(le);
        }
        let [head, request, token, a, b, c, d, _] = words;
        Message { kind: head as u32, status: (head >> 32) as i32, request, token, a, b, c, d }
    }
}
