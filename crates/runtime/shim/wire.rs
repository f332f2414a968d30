//! What the agent and the shim say to each other: message kinds, program steps, limits. Compiled into both.

/// Version of the messages and of the programs; a shim refuses another one in `HELLO`.
pub(crate) const PROTOCOL_VERSION: u32 = 1;
/// The first four bytes of every program.
pub(crate) const PROGRAM_MAGIC: u32 = 0x3150_4c4b;
/// The length in bytes of every message.
pub(crate) const MESSAGE_BYTES: usize = 64;
/// The largest program that is accepted, arguments and environment included.
pub(crate) const PROGRAM_BYTES_MAX: usize = 4 << 20;
/// How many processes (containers and execs, running or not yet removed) one shim keeps.
pub(crate) const PROCESSES_MAX: usize = 128;
/// How many agents may be connected at once.
pub(crate) const CONNECTIONS_MAX: usize = 8;
/// How many attached readers one container has at most.
pub(crate) const ATTACHED_MAX: usize = 4;
/// How many file descriptors one message carries at most.
pub(crate) const DESCRIPTORS_MAX: usize = 6;
/// A log line longer than this is cut into partial lines (CRI's 16 KiB).
pub(crate) const LOG_LINE_BYTES_MAX: usize = 16 << 10;
/// The smallest cap of a log.
pub(crate) const LOG_CAP_BYTES_MIN: u64 = 256 << 10;

/// Agent: which version do you speak? Reply: `a` version, `b` pid.
pub(crate) const HELLO: u32 = 1;
/// Agent: start a container. Descriptors: program, then log (flag), then cgroup (flag). `a` flags, `b` log cap, `c` log notice size, `d` target (flag).
pub(crate) const START: u32 = 2;
/// Agent: run a process inside container `b`. Descriptors: program, then stdin/stdout/stderr unless a tty, then cgroup (flag).
pub(crate) const EXEC: u32 = 3;
/// Agent: send signal `a` to the process.
pub(crate) const SIGNAL: u32 = 4;
/// Agent: tell every process; replies with one `PROCESS` each and a last `STATUS`.
pub(crate) const STATUS: u32 = 5;
/// Agent: hand me the write end of stdin, or the terminal.
pub(crate) const STDIN: u32 = 6;
/// Agent: close your copy of stdin's write end.
pub(crate) const CLOSE_STDIN: u32 = 7;
/// Agent: copy live output to these descriptors (stdout, stderr).
pub(crate) const ATTACH: u32 = 8;
/// Agent: write the log to this descriptor from now on.
pub(crate) const LOG: u32 = 9;
/// Agent: forget this exited process.
pub(crate) const REMOVE: u32 = 10;
/// Agent: kill everything and end.
pub(crate) const SHUTDOWN: u32 = 11;
/// Shim: one process of a `STATUS` answer.
pub(crate) const PROCESS: u32 = 32;
/// Shim, unsolicited: a process ended. `a` wait status, `b` started, `c` finished (ns since 1970), `d` dropped lines.
pub(crate) const EXITED: u32 = 33;
/// Shim, unsolicited: the log passed its notice size, which is `a` bytes now.
pub(crate) const LOG_GREW: u32 = 34;

/// `START`/`EXEC` flag: the program opens a terminal and sends its master.
pub(crate) const FLAG_TTY: u64 = 1;
/// `START` flag: keep a pipe to stdin open.
pub(crate) const FLAG_STDIN: u64 = 2;
/// `START` flag: a log descriptor comes along.
pub(crate) const FLAG_LOG: u64 = 4;
/// A cgroup v2 directory comes along; the process is born in it.
pub(crate) const FLAG_CGROUP: u64 = 8;
/// `START` flag: a PID namespace of its own.
pub(crate) const FLAG_OWN_PID: u64 = 16;
/// `START` flag: the PID namespace that the pod's containers share.
pub(crate) const FLAG_POD_PID: u64 = 32;
/// `START` flag: the PID namespace of the running container with token `d`. Comes with `FLAG_POD_PID`, which an older shim obeys.
pub(crate) const FLAG_TARGET_PID: u64 = 128;
/// `EXEC` flag: stdin comes along (before stdout and stderr); without it stdin is /dev/null.
pub(crate) const FLAG_EXEC_STDIN: u64 = 64;

/// Process states in a `PROCESS` message (`d`).
pub(crate) const STATE_FREE: u32 = 0;
/// The program is still being interpreted.
pub(crate) const STATE_STARTING: u32 = 1;
/// The process runs.
pub(crate) const STATE_RUNNING: u32 = 2;
/// The process ended and its exit is kept.
pub(crate) const STATE_EXITED: u32 = 3;
/// The program failed; the slot is freed as soon as the child is reaped.
pub(crate) const STATE_FAILED: u32 = 4;

/// A step whose failure is ignored.
pub(crate) const STEP_OPTIONAL: u16 = 1;
/// A bind mount that takes the mounts below its source along.
pub(crate) const STEP_RECURSIVE: u16 = 2;
/// A bind mount whose source is looked up in the host's mount namespace and stays its peer.
pub(crate) const STEP_FROM_HOST: u16 = 4;
/// A bind mount whose missing target is not created.
pub(crate) const STEP_EXISTING_TARGET: u16 = 8;

/// path, data: write data to a file.
pub(crate) const OP_WRITE_FILE: u16 = 1;
/// flags: unshare(2).
pub(crate) const OP_UNSHARE: u16 = 2;
/// name: sethostname(2).
pub(crate) const OP_HOSTNAME: u16 = 3;
/// bring `lo` up.
pub(crate) const OP_LOOPBACK_UP: u16 = 4;
/// source, target, type, flags, data: mount(2) on a target inside the root once it is known.
pub(crate) const OP_MOUNT: u16 = 5;
/// path: this directory becomes the root in which later paths are resolved.
pub(crate) const OP_ROOT: u16 = 6;
/// source, sub path, target, attributes, propagation: bind mount.
pub(crate) const OP_BIND: u16 = 7;
/// path, mode, uid, gid: make a directory with its parents.
pub(crate) const OP_MAKE_DIRECTORY: u16 = 8;
/// path, mode, device: make a device node.
pub(crate) const OP_MAKE_NODE: u16 = 9;
/// target, path: make a symbolic link.
pub(crate) const OP_SYMLINK: u16 = 10;
/// path, attributes: mount_setattr(2) on an existing mount.
pub(crate) const OP_ATTRIBUTES: u16 = 11;
/// path, empty directory: hide a path behind /dev/null or an empty directory; a missing path is fine.
pub(crate) const OP_MASK: u16 = 12;
/// path: bind a path read-only on itself; a missing path is fine.
pub(crate) const OP_READ_ONLY: u16 = 13;
/// make the root the real one and drop the old one.
pub(crate) const OP_PIVOT: u16 = 14;
/// path: chdir(2).
pub(crate) const OP_CHANGE_DIRECTORY: u16 = 15;
/// resource, soft, hard.
pub(crate) const OP_RLIMIT: u16 = 16;
/// a session keyring of its own.
pub(crate) const OP_KEYRING: u16 = 17;
/// columns, rows, console flag: open a terminal, make it the controlling one, send its master to the shim.
pub(crate) const OP_TTY: u16 = 18;
/// new session, standard streams from the shim.
pub(crate) const OP_STDIO: u16 = 19;
/// uid, gid, bounding, effective, permitted, inheritable, ambient, group count, groups.
pub(crate) const OP_IDENTITY: u16 = 20;
/// no_new_privs.
pub(crate) const OP_NO_NEW_PRIVILEGES: u16 = 21;
/// bytes: a seccomp filter.
pub(crate) const OP_SECCOMP: u16 = 22;
/// mask: umask(2).
pub(crate) const OP_UMASK: u16 = 23;
/// enter the mount and cgroup namespaces of the exec's container.
pub(crate) const OP_JOIN: u16 = 24;
/// argument count, environment count, search path, arguments, environment: execve(2).
pub(crate) const OP_EXECUTE: u16 = 25;

/// One message of either direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    /// What it is.
    pub(crate) kind: u32,
    /// 0, or the errno of a failed request.
    pub(crate) status: i32,
    /// Chosen by the agent, repeated in the reply; 0 in unsolicited messages.
    pub(crate) request: u64,
    /// Which process is meant, a number that the agent chose.
    pub(crate) token: u64,
    /// Argument; its meaning depends on `kind`.
    pub(crate) a: u64,
    /// Argument; its meaning depends on `kind`.
    pub(crate) b: u64,
    /// Argument; its meaning depends on `kind`.
    pub(crate) c: u64,
    /// Argument; its meaning depends on `kind`.
    pub(crate) d: u64,
}

impl Message {
    /// The bytes on the wire.
    pub(crate) fn encode(&self) -> [u8; MESSAGE_BYTES] {
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
    pub(crate) fn decode(bytes: &[u8; MESSAGE_BYTES]) -> Message {
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
