//! The process of cluster DNS as its agent has it: started, adopted, replaced, killed, frozen. Each process is this test's own binary.
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests with a main of their own")]

use std::io::{IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use klynge_network::dns::process::{Handle, Health, Options, Process, Setup, WORD, end, serve};
use klynge_network::dns::{DnsEndpoint, DnsKind, DnsService, Outside};
use klynge_network::services::ServiceKey;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [word, directory] = &words[..]
        && word == WORD
    {
        return if serve(Path::new(directory)).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if let [word, directory, address] = &words[..]
        && word == WORD
    {
        serve_in_the_future(Path::new(directory), address.parse().unwrap()).unwrap();
    }
    let wanted = words.iter().find(|word| !word.starts_with('-')).cloned().unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    macro_rules! run {
        ($($name:ident)*) => {$(
            if stringify!($name).contains(&wanted) {
                let begun = Instant::now();
                runtime.block_on($name());
                println!("test {} ... ok ({} ms)", stringify!($name), begun.elapsed().as_millis());
            }
        )*};
    }
    run! {
        names_outlive_the_agent
        an_agent_that_knows_little_takes_nothing_away
        a_killed_process_answers_again
        a_frozen_process_is_replaced
        another_release_takes_over_without_a_gap
        one_of_another_protocol_is_replaced
        strangers_change_nothing
        one_that_cannot_be_kept_alive_is_told
        whoever_waits_for_a_change_sees_it
    }
    ExitCode::SUCCESS
}

/// A directory for one test; its process ends with it.
struct Bed {
    directory: tempfile::TempDir,
    address: SocketAddr,
    program: PathBuf,
}

impl Drop for Bed {
    fn drop(&mut self) {
        end(self.directory.path()).unwrap();
    }
}

impl Bed {
    fn new() -> Self {
        // Free at this moment, for both protocols; nobody else takes a port that was just given back.
        let address = std::iter::repeat_with(|| UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap())
            .find(|address| TcpListener::bind(address).is_ok())
            .unwrap();
        Self { directory: tempfile::tempdir().unwrap(), address, program: "/proc/self/exe".into() }
    }

    fn options(&self) -> Options {
        Options {
            directory: self.directory.path().to_owned(),
            program: self.program.clone(),
            setup: Setup {
                listen: vec![self.address],
                domain: "cluster.local".to_owned(),
                reverse_ranges: vec!["10.43.0.0/16".parse().unwrap()],
                resolv_conf: Vec::new(),
                groups: Vec::new(),
            },
        }
    }

    async fn agent(&self) -> Handle {
        Process::run(self.options()).await.unwrap()
    }

    /// An agent that has told all Services.
    async fn agent_with(&self, names: &[&str]) -> Handle {
        let handle = self.agent().await;
        handle.replace(names.iter().map(|name| (key(name), service(1))));
        handle.in_force().await;
        handle
    }

    /// The answer's code and the last byte of each address; none where there is no answer within the time.
    fn ask(&self, name: &str, patience: Duration) -> Option<(ResponseCode, Vec<u8>)> {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(self.address).unwrap();
        socket.set_read_timeout(Some(patience)).unwrap();
        let mut question = Message::query();
        question.metadata.id = 7;
        let name = Name::from_ascii(format!("{name}.default.svc.cluster.local.")).unwrap();
        question.add_query(Query::query(name, RecordType::A));
        socket.send(&question.to_vec().unwrap()).unwrap();
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).ok()?;
        let answer = Message::from_vec(&buffer[..length]).unwrap();
        let last = |record: &hickory_proto::rr::Record| match &record.data {
            hickory_proto::rr::RData::A(address) => address.octets()[3],
            other => panic!("{other}"),
        };
        Some((answer.metadata.response_code, answer.answers.iter().map(last).collect()))
    }

    fn knows(&self, name: &str) -> bool {
        match self.ask(name, Duration::from_secs(5)) {
            Some((ResponseCode::NoError, addresses)) => !addresses.is_empty(),
            Some((ResponseCode::NXDomain, _)) => false,
            other => panic!("{name}: {other:?}"),
        }
    }
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("default", name)
}

fn service(last: u8) -> DnsService {
    DnsService { kind: DnsKind::ClusterIps(vec![IpAddr::from([10, 43, 0, last])]), ports: Vec::new() }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn pid(handle: &Handle) -> Pid {
    Pid::from_raw(handle.process().unwrap().cast_signed()).unwrap()
}

async fn names_outlive_the_agent() {
    let bed = Bed::new();
    let agent = bed.agent_with(&["web", "db"]).await;
    let process = agent.process().unwrap();
    assert!(bed.knows("web") && !bed.knows("other"));
    drop(agent);
    assert!(bed.knows("web") && bed.knows("db"));
    // The next one takes it up as it is, and what it says counts.
    let agent = bed.agent_with(&["web", "new"]).await;
    assert_eq!(agent.process(), Some(process));
    assert!(bed.knows("web") && bed.knows("new") && !bed.knows("db"));
    drop(agent);
    end(bed.directory.path()).unwrap();
    assert_eq!(bed.ask("web", Duration::from_millis(100)), None);
    // It has ended; its number is free as soon as whoever started it has taken its status.
    let process = Pid::from_raw(process.cast_signed()).unwrap();
    eventually("it is gone", || test_kill_process(process).is_err()).await;
}

async fn an_agent_that_knows_little_takes_nothing_away() {
    let bed = Bed::new();
    drop(bed.agent_with(&["web", "db"]).await);
    // As at a start without checkpoint: single Services come before the whole list.
    let agent = bed.agent().await;
    agent.update(&key("fresh"), Some(service(3)));
    agent.update(&key("db"), None);
    agent.in_force().await;
    assert!(bed.knows("web") && bed.knows("fresh") && !bed.knows("db"));
    let outside = Outside { stub_domains: vec![("a..b".to_owned(), Vec::new())], servers: Vec::new() };
    assert!(agent.set_outside(&outside).is_err());
}

async fn a_killed_process_answers_again() {
    let bed = Bed::new();
    let agent = bed.agent_with(&["web"]).await;
    for _ in 0..3 {
        let former = agent.process().unwrap();
        kill_process(pid(&agent), Signal::KILL).unwrap();
        let begun = Instant::now();
        eventually("it is dead", || agent.process() != Some(former)).await;
        // A question, asked once, waits in the socket, which the agent has, too; and the first answer is right.
        assert!(bed.knows("web"));
        assert_ne!(agent.process().unwrap_or(former), former);
        println!("  answers {} ms after kill -9", begun.elapsed().as_millis());
        assert!(begun.elapsed() < Duration::from_secs(5), "without back-off it takes a fraction of a second");
        agent.in_force().await;
    }
}

async fn a_frozen_process_is_replaced() {
    let bed = Bed::new();
    let agent = bed.agent_with(&["web"]).await;
    let former = pid(&agent);
    kill_process(former, Signal::STOP).unwrap();
    agent.update(&key("new"), Some(service(2)));
    agent.in_force().await;
    assert!(bed.knows("web") && bed.knows("new"));
    assert_ne!(pid(&agent), former);
    eventually("the frozen one is gone", || test_kill_process(former).is_err()).await;
    // Also by an agent that finds it frozen.
    let former = pid(&agent);
    drop(agent);
    kill_process(former, Signal::STOP).unwrap();
    let agent = bed.agent_with(&["web"]).await;
    assert!(bed.knows("web") && pid(&agent) != former);
}

async fn another_release_takes_over_without_a_gap() {
    let mut bed = Bed::new();
    let former = {
        let agent = bed.agent_with(&["web"]).await;
        pid(&agent)
    };
    let bed_program = bed.directory.path().join("another-release");
    std::fs::copy("/proc/self/exe", &bed_program).unwrap();
    bed.program = bed_program;
    let bed = Arc::new(bed);
    let stop = Arc::new(AtomicBool::new(false));
    let counted = Arc::new(AtomicU32::new(0));
    let asking = std::thread::spawn({
        let (bed, stop, counted) = (Arc::clone(&bed), Arc::clone(&stop), Arc::clone(&counted));
        move || {
            let (mut asked, mut slowest) = (0_u32, Duration::ZERO);
            while !stop.load(Ordering::SeqCst) {
                let begun = Instant::now();
                assert!(bed.knows("web"), "after {asked} questions");
                slowest = slowest.max(begun.elapsed());
                asked += 1;
                counted.store(asked, Ordering::SeqCst);
            }
            (asked, slowest)
        }
    });
    eventually("questions before", || counted.load(Ordering::SeqCst) > 20).await;
    let agent = bed.agent().await;
    // Nothing is replaced before the agent knows what the next one must know.
    agent.update(&key("fresh"), Some(service(3)));
    agent.in_force().await;
    assert_eq!(pid(&agent), former);
    agent.replace([(key("web"), service(1))]);
    eventually("another process", || {
        agent.process().is_some_and(|one| Pid::from_raw(one.cast_signed()) != Some(former))
    })
    .await;
    eventually("the former one is gone", || test_kill_process(former).is_err()).await;
    agent.in_force().await;
    let before = counted.load(Ordering::SeqCst);
    eventually("questions afterwards", || counted.load(Ordering::SeqCst) > before + 20).await;
    stop.store(true, Ordering::SeqCst);
    let (asked, slowest) = asking.join().unwrap();
    println!("  {asked} questions, the slowest {} ms", slowest.as_millis());
    assert!(bed.knows("web") && !bed.knows("fresh"));
}

/// Stands for the process of a release to come: greets with another version, hands its sockets over, and understands nothing.
fn serve_in_the_future(directory: &Path, address: SocketAddr) -> std::io::Result<()> {
    let udp = UdpSocket::bind(address)?;
    let tcp = TcpListener::bind(address)?;
    let listener = UnixListener::bind(directory.join("dns.sock"))?;
    println!("ready");
    let greeting = [&b"klynge-dns\n\0"[..], &99_u32.to_le_bytes()].concat();
    let mut agents = Vec::new();
    loop {
        let (mut agent, _) = listener.accept()?;
        agent.read_exact(&mut [0; 16])?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let sockets = [udp.as_fd(), tcp.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&sockets));
        sendmsg(&agent, &[IoSlice::new(&greeting)], &mut control, SendFlags::empty())?;
        agents.push(agent);
    }
}

async fn one_of_another_protocol_is_replaced() {
    let bed = Bed::new();
    let mut command = Command::new("/proc/self/exe");
    command.arg(WORD).arg(bed.directory.path()).arg(bed.address.to_string()).stdout(Stdio::piped());
    let mut future = command.spawn().unwrap();
    let mut line = [0; 6];
    future.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    let former = future.id();
    let agent = bed.agent().await;
    assert_eq!(agent.process(), Some(former), "it keeps the names of before until the agent knows better");
    agent.replace([(key("web"), service(1))]);
    agent.in_force().await;
    assert!(bed.knows("web"));
    assert_ne!(agent.process(), Some(former));
    future.wait().unwrap();
}

async fn strangers_change_nothing() {
    let bed = Bed::new();
    let agent = bed.agent_with(&["web"]).await;
    let process = agent.process();
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"klynge-dns", &[0xff; 4096]] {
        let mut stream = UnixStream::connect(bed.directory.path().join("dns.sock")).unwrap();
        stream.write_all(bytes).unwrap();
        // It hangs up.
        let mut answer = Vec::new();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let _ = stream.read_to_end(&mut answer);
    }
    agent.update(&key("new"), Some(service(2)));
    agent.in_force().await;
    assert!(bed.knows("web") && bed.knows("new"));
    assert_eq!(agent.process(), process);
}

async fn one_that_cannot_be_kept_alive_is_told() {
    let mut bed = Bed::new();
    bed.program = "/bin/false".into();
    let why = Process::run(bed.options()).await.err().unwrap().to_string();
    assert!(why.contains("dns.log"), "{why}");
    // An address that somebody else has.
    let taken = UdpSocket::bind(bed.address).unwrap();
    let why = Process::run(bed.options()).await.err().unwrap().to_string();
    assert!(why.contains("another DNS server"), "{why}");
    drop(taken);
    let program = bed.directory.path().join("program");
    std::fs::copy("/proc/self/exe", &program).unwrap();
    bed.program.clone_from(&program);
    let agent = bed.agent_with(&["web"]).await;
    let mut health = agent.health();
    assert_eq!(*health.borrow(), Health::Serving);
    let hidden = bed.directory.path().join("hidden");
    std::fs::rename(&program, &hidden).unwrap();
    kill_process(pid(&agent), Signal::KILL).unwrap();
    health.wait_for(|health| matches!(health, Health::Failing(why) if why.contains("No such file"))).await.unwrap();
    assert_eq!(agent.process(), None);
    std::fs::rename(&hidden, &program).unwrap();
    eventually("it answers", || bed.ask("web", Duration::from_millis(200)).is_some_and(|(_, found)| found == [1]))
        .await;
    health.wait_for(|health| *health == Health::Serving).await.unwrap();
}

async fn whoever_waits_for_a_change_sees_it() {
    let bed = Bed::new();
    let agent = bed.agent_with(&[]).await;
    let many: Vec<u8> = (1..=100).collect();
    let endpoints = many.iter().map(|last| DnsEndpoint { ip: IpAddr::from([10, 42, 0, *last]), hostname: None });
    let headless = DnsService { kind: DnsKind::Headless(endpoints.collect()), ports: Vec::new() };
    let mut took = Vec::new();
    for number in 0..200 {
        let name = format!("fresh-{number}");
        let begun = Instant::now();
        agent.update(&key(&name), Some(headless.clone()));
        agent.in_force().await;
        took.push(begun.elapsed());
        assert!(bed.knows(&name));
        agent.update(&key(&name), None);
    }
    took.sort_unstable();
    println!("  a change is in force after {} us (median), {} us (p99)", took[100].as_micros(), took[197].as_micros());
    assert!(took[100] < Duration::from_millis(20));
    // Many at once are all in force at the end.
    for number in 0..2000 {
        agent.update(&key(&format!("many-{number}")), Some(service(1)));
    }
    agent.in_force().await;
    assert!((0..2000).step_by(97).all(|number| bed.knows(&format!("many-{number}"))));
}
