//! Starts processes: descriptors and namespaces in the parent, then the program in the forked child.

use crate::paths;
use crate::process::{Descriptor, Process, Start};
use crate::steps::Context;
use crate::sys::{self, Memory};
use crate::wire::{self, Message};

/// What every start needs of the shim.
pub struct Home {
    pub host_mounts: i32,
    pub own_pids: i32,
    /// The first process of the PID namespace that the pod's containers share; 0 until one asks for it.
    pub pod_init: i32,
}

/// The descriptors of a request, taken in order.
pub struct Descriptors {
    pub list: [Descriptor; wire::DESCRIPTORS_MAX],
    pub next: usize,
}

impl Descriptors {
    pub fn take(&mut self) -> Result<Descriptor, i32> {
        let it = self.list.get_mut(self.next).map(Descriptor::take).unwrap_or_default();
        self.next += 1;
        it.get().map(|_| ()).ok_or(sys::EBADMSG)?;
        Ok(it)
    }
}

/// Reads a program from a descriptor.
pub fn load(program: i32) -> Result<Memory, i32> {
    let size = sys::file_size(program)? as usize;
    if size == 0 || size > wire::PROGRAM_BYTES_MAX {
        return Err(sys::E2BIG);
    }
    Memory::of_file(program, size)
}

/// Starts a container's first process (`START`) into a fresh slot.
pub fn container(
    home: &mut Home,
    message: &Message,
    with: &mut Descriptors,
    target: Option<i32>,
) -> Result<Process, i32> {
    let program_file = with.take()?;
    let mut process = Process { token: message.token, request: message.request, ..Process::FREE };
    if message.a & wire::FLAG_LOG != 0 {
        process.output.set_log(with.take()?, message.b, message.c);
    }
    let cgroup = if message.a & wire::FLAG_CGROUP != 0 { with.take()? } else { Descriptor::NONE };
    let mut child_ends = [Descriptor::NONE, Descriptor::NONE, Descriptor::NONE];
    if message.a & wire::FLAG_TTY == 0 {
        let [stdin, outputs @ ..] = &mut child_ends;
        if message.a & wire::FLAG_STDIN != 0 {
            let (read, write) = pipe()?;
            sys::set_nonblocking(write.get().unwrap_or(-1))?;
            *stdin = read;
            process.stdin = write;
        }
        for (index, end) in outputs.iter_mut().enumerate() {
            let (read, write) = pipe()?;
            sys::set_nonblocking(read.get().unwrap_or(-1))?;
            process.output.set_source(index, read);
            *end = write;
        }
    }
    let mut namespaces = sys::CLONE_NEWNS;
    let mut pids = None;
    if message.a & wire::FLAG_OWN_PID != 0 {
        namespaces |= sys::CLONE_NEWPID;
        process.own_pid_namespace = true;
    } else if target.is_some() {
        pids = target;
    } else if message.a & wire::FLAG_POD_PID != 0 {
        if home.pod_init == 0 {
            home.pod_init = start_pod_init()?;
        }
        pids = Some(home.pod_init);
    }
    launch(home, process, program_file, child_ends, cgroup, namespaces, pids, 0)
}

/// Starts a process inside a running container (`EXEC`).
pub fn exec(home: &mut Home, message: &Message, with: &mut Descriptors, container: i32) -> Result<Process, i32> {
    let program_file = with.take()?;
    let process = Process { token: message.token, request: message.request, exec: true, ..Process::FREE };
    let mut child_ends = [Descriptor::NONE, Descriptor::NONE, Descriptor::NONE];
    if message.a & wire::FLAG_TTY == 0 {
        for (index, end) in child_ends.iter_mut().enumerate() {
            if index > 0 || message.a & wire::FLAG_EXEC_STDIN != 0 {
                *end = with.take()?;
            }
        }
    }
    let cgroup = if message.a & wire::FLAG_CGROUP != 0 { with.take()? } else { Descriptor::NONE };
    launch(home, process, program_file, child_ends, cgroup, 0, Some(container), container)
}

fn pipe() -> Result<(Descriptor, Descriptor), i32> {
    sys::pipe().map(|(read, write)| (Descriptor::new(read), Descriptor::new(write)))
}

#[expect(clippy::too_many_arguments, reason = "it is where everything that a fork needs comes together")]
fn launch(
    home: &Home,
    mut process: Process,
    program: Descriptor,
    streams: [Descriptor; 3],
    cgroup: Descriptor,
    namespaces: usize,
    pid_namespace_of: Option<i32>,
    container: i32,
) -> Result<Process, i32> {
    let program = load(program.get().ok_or(sys::EBADMSG)?)?;
    let (report, child_report) = sys::socket_pair()?;
    process.report = Descriptor::new(report);
    let child_report = Descriptor::new(child_report);
    sys::set_nonblocking(report)?;
    if let Some(pid) = pid_namespace_of {
        let pids = sys::open(sys::AT_FDCWD, paths::of_process(pid, b"ns/pid")?.text(), sys::O_RDONLY, 0)?;
        let entered = sys::set_namespace(pids, sys::CLONE_NEWPID);
        sys::close(pids);
        entered?;
    }
    let forked = sys::fork(namespaces, cgroup.get());
    if let Ok(0) = forked {
        let report = child_report.get().unwrap_or(-1);
        let start = Start {
            streams: [streams[0].get(), streams[1].get(), streams[2].get()],
            report,
            container,
            host_mounts: home.host_mounts,
        };
        let (step, errno) = Context::new(start).run(program.bytes()).err().unwrap_or((u32::MAX, sys::EPROTO));
        let packet = (u64::from(step) | (errno as u32 as u64) << 32).to_le_bytes();
        let _ = sys::send(report, &packet, None);
        sys::exit(127);
    }
    if pid_namespace_of.is_some() {
        // Only children are affected, but the next one must not be born in this container.
        sys::set_namespace(home.own_pids, sys::CLONE_NEWPID)?;
    }
    process.pid = forked?;
    process.state = wire::STATE_STARTING;
    Ok(process)
}

/// The first process of the shared PID namespace: it reaps, and its end ends all of them.
fn start_pod_init() -> Result<i32, i32> {
    let pid = sys::fork(sys::CLONE_NEWPID, None)?;
    if pid != 0 {
        return Ok(pid);
    }
    sys::close_all();
    let (Ok(signals), Ok(epoll)) = (sys::child_signals(), sys::epoll_create()) else { sys::exit(125) };
    if sys::epoll_add(epoll, signals, 0).is_err() {
        sys::exit(125);
    }
    let mut events = [sys::EpollEvent { events: 0, data: 0 }];
    loop {
        let _ = sys::epoll_wait(epoll, &mut events, -1);
        let _ = sys::read(signals, &mut [0u8; 128]);
        while sys::reap().is_some() {}
    }
}
