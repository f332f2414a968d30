//! The shim's one loop: agents that connect and ask, programs that finish, output, and children that end.

use crate::output::{Moved, Scratch};
use crate::paths::Path;
use crate::process::{Descriptor, Process, Start};
use crate::start::{self, Descriptors, Home};
use crate::steps::Context;
use crate::sys::{self, EpollEvent};
use crate::wire::{self, CONNECTIONS_MAX, MESSAGE_BYTES, Message, PROCESSES_MAX};

const LISTENER: u64 = 1;
const SIGNALS: u64 = 2;
const CONNECTION: u64 = 3;
const REPORT: u64 = 4;
const OUTPUT: u64 = 5;

/// After this long without an event the buffers go back to the kernel.
const IDLE_AFTER_MS: i32 = 1_000;
/// How often output that waits for a rotation is looked at.
const HELD_LOOK_MS: i32 = 250;

struct Shim {
    epoll: i32,
    listener: i32,
    signals: i32,
    home: Home,
    connections: [Descriptor; CONNECTIONS_MAX],
    processes: [Process; PROCESSES_MAX],
    scratch: Scratch,
    /// Some output may be waiting for a rotation of its log.
    holding: bool,
}

struct Global(core::cell::UnsafeCell<Shim>);
// SAFETY: the shim has one thread.
unsafe impl Sync for Global {}

/// Zeroes, hence in .bss: a slot costs memory only once it is used.
static SHIM: Global = Global(core::cell::UnsafeCell::new(Shim {
    epoll: 0,
    listener: 0,
    signals: 0,
    home: Home { host_mounts: 0, own_pids: 0, pod_init: 0 },
    connections: [const { Descriptor::NONE }; CONNECTIONS_MAX],
    processes: [const { Process::FREE }; PROCESSES_MAX],
    scratch: Scratch::NONE,
    holding: false,
}));

/// Sets the pod up, reports, and serves for ever.
pub fn run(listener: i32, program: i32, report: i32) -> ! {
    // SAFETY: called once; this is the only reference.
    let shim = unsafe { &mut *SHIM.0.get() };
    let failure = shim.prepare(listener, program, report).err();
    let (step, errno) = failure.unwrap_or((0, 0));
    let mut packet = [0u8; 16];
    packet[..4].copy_from_slice(&step.to_le_bytes());
    packet[4..8].copy_from_slice(&errno.to_le_bytes());
    packet[8..12].copy_from_slice(&sys::process_id().to_le_bytes());
    let told = sys::write(report, &packet);
    if failure.is_some() || told.is_err() {
        sys::exit(1);
    }
    sys::close(report);
    loop {
        shim.turn();
    }
}

fn tag(kind: u64, index: usize, stream: usize) -> u64 {
    kind << 32 | (stream as u64) << 16 | index as u64
}

/// Closes a watched descriptor. Closing alone is not enough: a child that is still being prepared, or an agent that was
/// handed a terminal, holds the same open file, and epoll would report it for ever.
fn close(epoll: i32, descriptor: &mut Descriptor) {
    if let Some(it) = descriptor.take().get() {
        sys::epoll_remove(epoll, it);
    }
}

fn unwatch_output(epoll: i32, process: &Process) {
    for source in (0..2).filter_map(|stream| process.output.source(stream)) {
        sys::epoll_remove(epoll, source);
    }
}

/// Watches a process's output again; what is being watched stays so.
fn watch_output(epoll: i32, slot: usize, process: &Process) {
    for stream in 0..2 {
        if let Some(source) = process.output.source(stream) {
            let _ = sys::epoll_add(epoll, source, tag(OUTPUT, slot, stream));
        }
    }
}

impl Shim {
    fn prepare(&mut self, listener: i32, program: i32, report: i32) -> Result<(), (u32, i32)> {
        let early = |errno: i32| (u32::MAX, errno);
        let _ = sys::set_session();
        self.listener = listener;
        self.home.host_mounts = sys::open(sys::AT_FDCWD, c"/proc/self/ns/mnt", sys::O_RDONLY, 0).map_err(early)?;
        self.home.own_pids = sys::open(sys::AT_FDCWD, c"/proc/self/ns/pid", sys::O_RDONLY, 0).map_err(early)?;
        self.signals = sys::child_signals().map_err(early)?;
        self.epoll = sys::epoll_create().map_err(early)?;
        sys::epoll_add(self.epoll, listener, tag(LISTENER, 0, 0)).map_err(early)?;
        sys::epoll_add(self.epoll, self.signals, tag(SIGNALS, 0, 0)).map_err(early)?;
        // Orphans of containers that share the host's PID namespace come here; no container may look into this process.
        sys::prctl(36, 1, 0).map_err(early)?;
        sys::prctl(4, 0, 0).map_err(early)?;
        sys::prctl(15, c"klynge-shim".as_ptr() as usize, 0).map_err(early)?;
        sys::set_umask(0o022);
        let steps = start::load(program).map_err(early)?;
        sys::close(program);
        let start = Start { streams: [None; 3], report, container: 0, host_mounts: self.home.host_mounts };
        Context::new(start).run(steps.bytes())
    }

    fn turn(&mut self) {
        let mut events = [EpollEvent { events: 0, data: 0 }; 16];
        let wait_ms = if self.holding { HELD_LOOK_MS } else { IDLE_AFTER_MS };
        let count = match sys::epoll_wait(self.epoll, &mut events, wait_ms) {
            Ok(0) if !self.holding => {
                self.scratch.release();
                sys::epoll_wait(self.epoll, &mut events, -1).unwrap_or(0)
            }
            other => other.unwrap_or(0),
        };
        for event in events.iter().take(count) {
            let data = event.data;
            let (index, stream) = (data as u16 as usize, (data >> 16) as u16 as usize);
            match data >> 32 {
                LISTENER => self.accept(),
                SIGNALS => self.reap(),
                CONNECTION => self.receive(index),
                REPORT => self.report(index),
                OUTPUT => self.output(index, stream),
                _ => {}
            }
        }
        if self.holding {
            self.release_held();
        }
    }

    /// Lets output go on whose wait for the agent's rotation is over.
    fn release_held(&mut self) {
        let agent = self.connections.iter().any(|it| it.get().is_some());
        self.holding = false;
        for slot in 0..PROCESSES_MAX {
            let Some(process) = self.processes.get_mut(slot).filter(|it| it.output.is_held()) else { continue };
            if process.output.release(agent) {
                watch_output(self.epoll, slot, process);
            } else {
                self.holding = true;
            }
        }
    }

    fn accept(&mut self) {
        let Ok(it) = sys::accept(self.listener) else { return };
        let connection = Descriptor::new(it);
        let Some(free) = self.connections.iter().position(|it| it.get().is_none()) else { return };
        if sys::epoll_add(self.epoll, it, tag(CONNECTION, free, 0)).is_ok() {
            self.connections[free] = connection;
        }
    }

    fn disconnect(&mut self, index: usize) {
        if let Some(connection) = self.connections.get_mut(index) {
            close(self.epoll, connection);
        }
        for process in self.processes.iter_mut().filter(|it| it.owner == index + 1) {
            process.owner = 0;
        }
    }

    /// An agent that does not read its answers is disconnected; it learns everything again from `STATUS`.
    fn send(&mut self, index: usize, message: &Message, descriptor: Option<i32>) {
        let Some(to) = self.connections.get(index).and_then(Descriptor::get) else { return };
        if sys::send(to, &message.encode(), descriptor).is_err() {
            self.disconnect(index);
        }
    }

    fn receive(&mut self, index: usize) {
        let Some(from) = self.connections.get(index).and_then(Descriptor::get) else { return };
        let mut bytes = [0u8; MESSAGE_BYTES];
        let mut numbers = [-1; wire::DESCRIPTORS_MAX];
        match sys::receive(from, &mut bytes, &mut numbers) {
            Ok(MESSAGE_BYTES) => {}
            Err(sys::EAGAIN | sys::EINTR) => return,
            _ => return self.disconnect(index),
        }
        let mut with = Descriptors { list: numbers.map(Descriptor::new), next: 0 };
        let message = Message::decode(&bytes);
        let mut reply = Message { kind: message.kind, request: message.request, token: message.token, ..Message::default() };
        let mut descriptor = None;
        let answer = match message.kind {
            wire::HELLO => {
                reply.a = u64::from(wire::PROTOCOL_VERSION);
                reply.b = sys::process_id() as u64;
                Ok(true)
            }
            wire::START | wire::EXEC => self.start(&message, &mut with, index).map(|()| false),
            wire::STATUS => {
                self.tell_all(index, message.request);
                Ok(true)
            }
            wire::SHUTDOWN => self.shut_down(),
            _ => self.about_process(&message, &mut with, &mut descriptor),
        };
        match answer {
            Ok(false) => return,
            Ok(true) => {}
            // No step failed: the process was never made.
            Err(errno) => (reply.status, reply.a) = (errno, u64::from(u32::MAX)),
        }
        self.send(index, &reply, descriptor);
    }

    fn find(&mut self, token: u64) -> Result<usize, i32> {
        let found = |it: &Process| it.state != wire::STATE_FREE && it.state != wire::STATE_FAILED && it.token == token;
        self.processes.iter().position(found).ok_or(sys::ESRCH)
    }

    /// The pid of a running process.
    fn running(&mut self, token: u64) -> Result<i32, i32> {
        let slot = self.find(token)?;
        let process = self.processes.get(slot).filter(|it| it.state == wire::STATE_RUNNING);
        process.map(|it| it.pid).ok_or(sys::ESRCH)
    }

    fn start(&mut self, message: &Message, with: &mut Descriptors, owner: usize) -> Result<(), i32> {
        if self.find(message.token).is_ok() {
            return Err(sys::EEXIST);
        }
        let slot = self.processes.iter().position(|it| it.state == wire::STATE_FREE).ok_or(sys::ENOSPC)?;
        let mut process = if message.kind == wire::START {
            let target = if message.a & wire::FLAG_TARGET_PID != 0 { Some(self.running(message.d)?) } else { None };
            start::container(&mut self.home, message, with, target)?
        } else {
            let container = self.running(message.b)?;
            start::exec(&mut self.home, message, with, container)?
        };
        process.owner = owner + 1;
        if let Some(report) = process.report.get() {
            sys::epoll_add(self.epoll, report, tag(REPORT, slot, 0))?;
        }
        for stream in 0..2 {
            if let Some(source) = process.output.source(stream) {
                sys::epoll_add(self.epoll, source, tag(OUTPUT, slot, stream))?;
            }
        }
        self.processes[slot] = process;
        Ok(())
    }

    fn about_process(&mut self, message: &Message, with: &mut Descriptors, out: &mut Option<i32>) -> Result<bool, i32> {
        let slot = self.find(message.token)?;
        let process = self.processes.get_mut(slot).ok_or(sys::ESRCH)?;
        match message.kind {
            wire::SIGNAL if process.state != wire::STATE_EXITED => {
                sys::kill(process.pid, message.a as i32)?;
            }
            wire::STDIN => *out = Some(process.stdin.get().ok_or(sys::ENOENT)?),
            wire::CLOSE_STDIN => {
                process.stdin.take();
            }
            wire::ATTACH => {
                for stream in 0..2 {
                    let Ok(reader) = with.take() else { break };
                    sys::set_nonblocking(reader.get().unwrap_or(-1))?;
                    process.output.attach(stream, reader).map_err(|_| sys::EBUSY)?;
                }
            }
            wire::LOG => {
                process.output.reopen_log(with.take()?);
                watch_output(self.epoll, slot, process);
            }
            wire::REMOVE if process.state == wire::STATE_EXITED => *process = Process::FREE,
            wire::SIGNAL => return Err(sys::ESRCH),
            wire::REMOVE => return Err(sys::EBUSY),
            _ => return Err(sys::EPROTO),
        }
        Ok(true)
    }

    fn tell_all(&mut self, index: usize, request: u64) {
        for slot in 0..PROCESSES_MAX {
            let Some(it) = self.processes.get(slot).filter(|it| it.state != wire::STATE_FREE && !it.exec) else { continue };
            let pid_and_state = it.pid as u32 as u64 | u64::from(it.state) << 32;
            let mut message = it.message(wire::PROCESS);
            message.request = request;
            message.d = pid_and_state;
            self.send(index, &message, None);
            if let Some(process) = self.processes.get_mut(slot) {
                process.output.forget_notice();
            }
            self.tell_growth(slot);
        }
    }

    fn shut_down(&mut self) -> ! {
        for process in self.processes.iter().filter(|it| it.pid > 0 && it.state != wire::STATE_EXITED) {
            if process.state != wire::STATE_FREE {
                let _ = sys::kill(process.pid, 9);
            }
        }
        if self.home.pod_init > 0 {
            let _ = sys::kill(self.home.pod_init, 9);
        }
        // Waiting here makes the end of this process the proof that nothing of the pod runs any more.
        while sys::wait_any().is_ok() {}
        sys::exit(0)
    }

    /// The program of a process failed, sent its terminal, or succeeded (the socket closed on exec).
    fn report(&mut self, slot: usize) {
        let Some(process) = self.processes.get_mut(slot) else { return };
        let Some(report) = process.report.get() else { return };
        let mut packet = [0u8; 8];
        let mut descriptors = [-1];
        let length = match sys::receive(report, &mut packet, &mut descriptors) {
            Err(sys::EAGAIN | sys::EINTR) => return,
            other => other.unwrap_or(0),
        };
        let mut descriptor = Descriptor::new(descriptors[0]);
        if let (8, Some(master)) = (length, descriptor.get()) {
            if process.exec {
                process.master = descriptor.take();
            } else if let Ok(reader) = sys::duplicate_above(master, 3) {
                process.stdin = descriptor.take();
                process.output.set_source(0, Descriptor::new(reader));
                let _ = sys::epoll_add(self.epoll, reader, tag(OUTPUT, slot, 0));
            }
            return;
        }
        let kind = if process.exec { wire::EXEC } else { wire::START };
        let mut reply = Message { kind, request: process.request, token: process.token, ..Message::default() };
        close(self.epoll, &mut process.report);
        let master = process.master.take();
        if length == 8 {
            let packet = u64::from_le_bytes(packet);
            reply.status = (packet >> 32) as i32;
            reply.a = u64::from(packet as u32);
            process.state = wire::STATE_FAILED;
            process.stdin.take();
            unwatch_output(self.epoll, process);
            process.output = crate::output::Output::NONE;
        } else {
            process.state = wire::STATE_RUNNING;
            process.started_ns = sys::now_ns();
            reply.a = process.pid as u64;
            reply.b = process.started_ns;
        }
        let owner = process.owner;
        if owner > 0 {
            self.send(owner - 1, &reply, master.get());
        }
    }

    fn output(&mut self, slot: usize, stream: usize) {
        let Some(process) = self.processes.get_mut(slot) else { return };
        if process.output.source(stream).is_none() {
            return;
        }
        match process.output.pump(stream, &mut self.scratch) {
            Moved::Some | Moved::Nothing => {}
            Moved::Held => {
                unwatch_output(self.epoll, process);
                self.holding = true;
            }
            Moved::End => {
                if let Some(source) = process.output.source(stream) {
                    sys::epoll_remove(self.epoll, source);
                }
                process.output.end(stream, &mut self.scratch);
            }
        }
        self.tell_growth(slot);
    }

    /// Tells the agents once that a log wants to be rotated.
    fn tell_growth(&mut self, slot: usize) {
        let Some(process) = self.processes.get_mut(slot) else { return };
        if let Some(size) = process.output.grew() {
            let notice = Message { kind: wire::LOG_GREW, token: process.token, a: size, ..Message::default() };
            for index in 0..CONNECTIONS_MAX {
                self.send(index, &notice, None);
            }
        }
    }

    fn reap(&mut self) {
        let _ = sys::read(self.signals, &mut [0u8; 128]);
        while let Some((pid, wait_status)) = sys::reap() {
            if pid == self.home.pod_init {
                self.home.pod_init = 0;
            }
            let running = |it: &Process| it.pid == pid && it.state != wire::STATE_FREE && it.state != wire::STATE_EXITED;
            let Some(slot) = self.processes.iter().position(running) else { continue };
            // The start must be told before the end; at most a terminal and an outcome are waiting.
            self.report(slot);
            self.report(slot);
            self.ended(slot, wait_status);
        }
    }

    fn ended(&mut self, slot: usize, wait_status: i32) {
        let Some(process) = self.processes.get_mut(slot) else { return };
        if process.state == wire::STATE_FAILED {
            *process = Process::FREE;
            return;
        }
        process.finished_ns = sys::now_ns();
        process.wait_status = wait_status;
        process.stdin.take();
        unwatch_output(self.epoll, process);
        process.output.finish(&mut self.scratch);
        process.state = wire::STATE_EXITED;
        let message = process.message(wire::EXITED);
        if process.exec {
            let owner = process.owner;
            *process = Process::FREE;
            if owner > 0 {
                self.send(owner - 1, &message, None);
            }
            return;
        }
        let _ = keep_exit(&message);
        for index in 0..CONNECTIONS_MAX {
            self.send(index, &message, None);
        }
    }
}

impl Process {
    fn message(&self, kind: u32) -> Message {
        Message {
            kind,
            status: self.wait_status,
            token: self.token,
            a: self.started_ns,
            b: self.finished_ns,
            c: self.output.dropped_lines(),
            ..Message::default()
        }
    }
}

/// Leaves the exit in the pod's directory, for an agent that finds the shim gone.
fn keep_exit(message: &Message) -> Result<(), i32> {
    let mut name = Path::new();
    name.push(b"exits/")?;
    name.push_number(message.token)?;
    let mut temporary = Path::new();
    temporary.push(name.as_bytes())?;
    temporary.push(b".new")?;
    let mut line = Path::new();
    line.push(b"1")?;
    for number in [message.status as u32 as u64, message.a, message.b, message.c] {
        line.push(b" ")?;
        line.push_number(number)?;
    }
    line.push(b"\n")?;
    let flags = sys::O_WRONLY | sys::O_CREAT | sys::O_TRUNC | sys::O_NOFOLLOW;
    let file = Descriptor::new(sys::open(sys::AT_FDCWD, temporary.text(), flags, 0o600)?);
    if sys::write(file.get().unwrap_or(-1), line.as_bytes())? != line.as_bytes().len() {
        return Err(sys::ENOSPC);
    }
    sys::rename(sys::AT_FDCWD, temporary.text(), name.text()).map(drop)
}
