//! Packets between nodes encrypted with WireGuard: the kernel's, the one in user space, and one of each. What this kernel has no means for is
//! skipped, and says so; `tests/guest/network encryption` runs all of it in a machine whose kernel has both. Each process in user space is this
//! test's own binary.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests with a main of their own")]

mod bed;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bed::cluster::{Fabric, Node, Wire, assert_carries, assert_connected};
use bed::{Pod, ask, connect, eventually, greeting, prefix};
use klynge_network::netlink::{NetworkNamespace, PublicKey, Route, RouteBatch, Rtnetlink};
use klynge_network::pod_net::{
    ENCRYPTION_INTERFACE as INTERFACE, ENCRYPTION_PORT, ENCRYPTION_TABLE, EncryptionForm, Peer, PeersReport,
    PrivateKey, purge,
};
use klynge_network::wireguard::{Handle, Options, Process, Setup, WORD, end, serve};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socket_with, sockopt};
use rustix::process::{Pid, Signal, kill_process};

/// What looks after the processes, as the agent's runtime does.
static RUNTIME: LazyLock<tokio::runtime::Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap());

use EncryptionForm::{Kernel, UserSpace};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [word, directory] = &words[..]
        && word == WORD
    {
        return if serve(Path::new(directory)).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let wanted = words.iter().find(|word| !word.starts_with('-')).cloned().unwrap_or_default();
    let has_kernel = has_wireguard();
    if !has_kernel {
        println!("skipped: this kernel has no WireGuard");
    }
    let has_tun = std::fs::File::open("/dev/net/tun").is_ok();
    if !has_tun {
        println!("skipped: this kernel has no TUN devices");
    }
    let has = |form: &EncryptionForm| if *form == Kernel { has_kernel } else { has_tun };
    let mut passed = 0;
    macro_rules! run {
        ($($name:ident($($forms:expr),*);)*) => {$(
            if stringify!($name).contains(&wanted) {
                for forms in [$($forms),*] {
                    if !forms.iter().all(has) {
                        continue;
                    }
                    let begun = Instant::now();
                    $name(forms);
                    passed += 1;
                    println!("test {} {forms:?} ... ok ({} ms)", stringify!($name), begun.elapsed().as_millis());
                }
            }
        )*};
    }
    run! {
        nothing_between_nodes_can_be_read_on_the_way([Kernel, Kernel], [UserSpace, UserSpace], [UserSpace, Kernel]);
        nodes_without_a_key_and_plain_packets_stay_outside([Kernel, Kernel], [UserSpace, UserSpace], [Kernel, UserSpace]);
        agents_come_and_go_keys_change_and_encryption_ends([Kernel, Kernel], [UserSpace, UserSpace], [UserSpace, Kernel]);
        everything_goes_over_ipv6_as_well([UserSpace, UserSpace], [Kernel, UserSpace]);
        a_killed_process_comes_back_and_connections_live([UserSpace, UserSpace], [UserSpace, Kernel]);
        another_release_takes_over_and_nothing_is_lost([UserSpace, UserSpace]);
        what_strangers_send_changes_nothing([UserSpace, UserSpace]);
        a_node_that_moves_is_followed([UserSpace, UserSpace], [Kernel, UserSpace]);
        the_form_can_change([UserSpace, Kernel]);
    }
    println!("test result: ok. {passed} passed");
    ExitCode::SUCCESS
}

fn has_wireguard() -> bool {
    let namespace = NetworkNamespace::create().unwrap();
    let mut batch = RouteBatch::new();
    batch.add_wireguard("test", 1420);
    batch.send(Rtnetlink::open_in(&namespace).unwrap().socket()).is_ok()
}

/// A node that encrypts.
struct Secret {
    node: Node,
    form: EncryptionForm,
    program: PathBuf,
    tunnel: Option<Arc<Handle>>,
}

impl std::ops::Deref for Secret {
    type Target = Node;
    fn deref(&self) -> &Node {
        &self.node
    }
}

impl std::ops::DerefMut for Secret {
    fn deref_mut(&mut self) -> &mut Node {
        &mut self.node
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        // Nobody looks after it any more.
        self.restart();
        end(&self.directory()).unwrap();
    }
}

impl Secret {
    fn new(node: Node, form: EncryptionForm) -> Self {
        Self { node, form, program: "/proc/self/exe".into(), tunnel: None }
    }

    fn directory(&self) -> PathBuf {
        self.node.options.directory.clone().unwrap()
    }

    fn encrypt(&mut self, name: &str) -> PublicKey {
        let path = self.directory().join(name);
        let key = PrivateKey::load_or_make(&path).unwrap();
        if self.form == Kernel {
            return self.node.network.encrypt(key).unwrap();
        }
        let options = Options {
            directory: self.directory(),
            program: self.program.clone(),
            setup: Setup {
                interface: INTERFACE.to_owned(),
                port: ENCRYPTION_PORT,
                key_file: path,
                public_key: key.public_key(),
                groups: Vec::new(),
            },
        };
        let tunnel = RUNTIME.block_on(Process::run(options, self.node.namespace.clone())).unwrap();
        let tunnel = Arc::new(tunnel);
        self.tunnel = Some(Arc::clone(&tunnel));
        self.node.network.encrypt_in_user_space(tunnel).unwrap()
    }

    /// As if its agent had been killed and started again.
    fn restart(&mut self) {
        self.node.restart();
        self.tunnel = None;
    }

    fn process(&self) -> Option<u32> {
        self.tunnel.as_ref().unwrap().process()
    }

    fn kill(&self) {
        kill_process(Pid::from_raw(self.process().unwrap().cast_signed()).unwrap(), Signal::KILL).unwrap();
    }
}

/// Makes all each other's peers, with these keys, and returns what each said.
fn join(nodes: &mut [(&mut Secret, Option<PublicKey>)]) -> Vec<PeersReport> {
    let peers: Vec<Peer> = nodes.iter().map(|(node, key)| Peer { encryption_key: *key, ..node.peer() }).collect();
    let others = |own: usize| peers.iter().enumerate().filter(move |(other, _)| *other != own);
    let set = |(own, (node, _)): (usize, &mut (&mut Secret, Option<PublicKey>))| {
        let others: Vec<Peer> = others(own).map(|(_, peer)| peer.clone()).collect();
        node.network.set_peers(&others).unwrap()
    };
    nodes.iter_mut().enumerate().map(set).collect()
}

/// Two nodes that encrypt, on two subnets, with a pod each, joined.
fn two(fabric: &Fabric, forms: [EncryptionForm; 2]) -> (Secret, Secret, Pod, Pod) {
    let (mut a, mut b) = (Secret::new(fabric.node(0, 1), forms[0]), Secret::new(fabric.node(1, 2), forms[1]));
    let (one, two) = (a.pod("one").serve(), b.pod("two").serve());
    let keys = [Some(a.encrypt("key")), Some(b.encrypt("key"))];
    for report in join(&mut [(&mut a, keys[0]), (&mut b, keys[1])]) {
        assert_eq!(report.problems, []);
    }
    assert_connected(&one, &two);
    (a, b, one, two)
}

/// Counts what passes an interface with these bytes in it, and all that passes to or from the port of the encryption.
struct Ear {
    stop: Arc<AtomicBool>,
    marked: Arc<AtomicUsize>,
    encrypted: Arc<AtomicUsize>,
}

impl Ear {
    fn new(namespace: &NetworkNamespace, mark: &'static [u8]) -> Self {
        let all = u32::from(3_u16.to_be()); // ETH_P_ALL
        let protocol = rustix::net::Protocol::from_raw(std::num::NonZeroU32::new(all).unwrap());
        let open =
            || socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol)).unwrap();
        let socket = namespace.run(open).unwrap();
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(Duration::from_millis(100))).unwrap();
        let ear = Self { stop: Arc::default(), marked: Arc::default(), encrypted: Arc::default() };
        let (stop, marked, encrypted) = (Arc::clone(&ear.stop), Arc::clone(&ear.marked), Arc::clone(&ear.encrypted));
        std::thread::spawn(move || {
            let mut buffer = vec![0; 70_000];
            while !stop.load(Ordering::Relaxed) {
                let Ok((length, _)) = recv(&socket, &mut buffer[..], RecvFlags::empty()) else { continue };
                let frame = &buffer[..length];
                if frame.windows(mark.len()).any(|window| window == mark) {
                    marked.fetch_add(1, Ordering::Relaxed);
                }
                // Ethernet, IPv4 without options, UDP: the ports are at 34 and 36.
                if frame.len() > 42
                    && frame[12..14] == [8, 0]
                    && frame[23] == 17
                    && frame[36..38] == 8478_u16.to_be_bytes()
                {
                    encrypted.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        ear
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn nothing_between_nodes_can_be_read_on_the_way(forms: [EncryptionForm; 2]) {
    let fabric = Fabric::new();
    let [mut a, mut b, mut c] = [(0, 1, forms[0]), (0, 2, forms[1]), (1, 3, forms[0])]
        .map(|(subnet, number, form)| Secret::new(fabric.node(subnet, number), form));
    let ear = Ear::new(&fabric.router, b"in plain words");
    // First without, so that the ear is known to hear.
    join(&mut [(&mut a, None), (&mut b, None), (&mut c, None)]);
    let (one, two, three) = (a.pod("one").serve(), b.pod("two").serve(), c.pod("three").serve());
    let talk = |to: IpAddr| {
        let socket = one.namespace.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
        for _ in 0..10 {
            socket.send_to(b"in plain words", (to, 5353)).unwrap();
        }
    };
    talk(two.ip());
    talk(three.ip());
    eventually("plain words are heard", || ear.marked.load(Ordering::Relaxed) > 10);
    let keys = [a.encrypt("key"), b.encrypt("key"), c.encrypt("key")].map(Some);
    let reports = join(&mut [(&mut a, keys[0]), (&mut b, keys[1]), (&mut c, keys[2])]);
    for report in &reports {
        assert_eq!(report.problems, []);
        assert_eq!((report.direct_ranges, report.tunnelled_ranges, report.encrypted_ranges), (0, 0, 4));
        assert_eq!(report.mtu_bytes, 1420);
    }
    assert!(!a.has_interface("klynge-vx"), "the tunnel in plain is gone");
    std::thread::sleep(Duration::from_millis(300)); // what was on its way in plain has passed
    let (marked, encrypted) = (ear.marked.load(Ordering::Relaxed), ear.encrypted.load(Ordering::Relaxed));
    assert_connected(&one, &two);
    assert_connected(&one, &three);
    assert_carries(&one.namespace, three.ip(), 1 << 20);
    talk(two.ip());
    talk(three.ip());
    // A node itself reaches pods of others, from its end of the encryption.
    assert_eq!(ask(&a.namespace, three.ip(), 8080).unwrap().1, "10.42.1.1".parse::<IpAddr>().unwrap());
    assert!(ear.encrypted.load(Ordering::Relaxed) > encrypted + 100);
    assert_eq!(ear.marked.load(Ordering::Relaxed), marked, "a word was heard");
    let again = join(&mut [(&mut a, keys[0]), (&mut b, keys[1]), (&mut c, keys[2])]);
    assert!(again.iter().all(|report| (report.added, report.removed) == (0, 0)), "{again:?}");
    for node in [&mut a, &mut b, &mut c] {
        let report = node.network.verify_peers().unwrap();
        assert_eq!((report.added, report.removed), (0, 0), "{}", node.name);
    }
}

fn nodes_without_a_key_and_plain_packets_stay_outside(forms: [EncryptionForm; 2]) {
    let fabric = Fabric::new();
    let [mut a, mut b, mut c] =
        [(1, forms[0]), (2, forms[1]), (3, forms[0])].map(|(number, form)| Secret::new(fabric.node(0, number), form));
    let (one, two, three) = (a.pod("one").serve(), b.pod("two").serve(), c.pod("three").serve());
    let keys = [Some(a.encrypt("key")), Some(b.encrypt("key")), None];
    let reports = join(&mut [(&mut a, keys[0]), (&mut b, keys[1]), (&mut c, keys[2])]);
    assert_eq!(reports[0].problems.len(), 1);
    assert!(reports[0].problems[0].to_string().starts_with("node node3: it has no key"));
    assert_connected(&one, &two);
    assert!(connect(&one.namespace, three.ip(), 8080).is_err());
    assert!(connect(&three.namespace, one.ip(), 8080).is_err());
    // Somebody on the wire who pretends to be a pod: it is not heard.
    let (stranger, _) = fabric.machine(0, 9, bed::cluster::Wire::Dual);
    let mut rtnetlink = Rtnetlink::open_in(&stranger).unwrap();
    let eth0 = rtnetlink.index_of("eth0").unwrap();
    let mut batch = RouteBatch::new();
    batch.add_address(eth0, "10.42.2.77".parse().unwrap(), 32);
    batch.add_route(&Route {
        destination: prefix("10.42.1.0/24"),
        gateway: Some(a.ip()),
        interface: Some(eth0),
        source: Some("10.42.2.77".parse().unwrap()),
        on_link: false,
    });
    batch.send(rtnetlink.socket()).unwrap();
    let heard = one.namespace.run(|| UdpSocket::bind("0.0.0.0:7000").unwrap()).unwrap();
    heard.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let send = |from: &NetworkNamespace, address: &str| {
        let socket = from.run(|| UdpSocket::bind((address, 0)).unwrap()).unwrap();
        socket.send_to(b"psst", (one.ip(), 7000)).unwrap();
    };
    send(&stranger, "10.42.2.77");
    let mut buffer = [0; 16];
    assert!(heard.recv_from(&mut buffer).is_err(), "a stranger was heard as a pod");
    send(&two.namespace, "0.0.0.0");
    assert_eq!(heard.recv_from(&mut buffer).unwrap().1.ip(), two.ip());
}

fn agents_come_and_go_keys_change_and_encryption_ends(forms: [EncryptionForm; 2]) {
    let fabric = Fabric::new();
    let (mut a, mut b) = (Secret::new(fabric.node(0, 1), forms[0]), Secret::new(fabric.node(1, 2), forms[1]));
    let (one, two) = (a.pod("one").serve(), b.pod("two").serve());
    let (first, other) = (a.encrypt("key"), b.encrypt("key"));
    join(&mut [(&mut a, Some(first)), (&mut b, Some(other))]);
    let mut stream = connect(&one.namespace, two.ip(), 8080).unwrap();
    a.restart();
    a.recover(&[&one]);
    assert_connected(&one, &two);
    assert_eq!(a.encrypt("key"), first, "the key is kept");
    assert_eq!(a.network.mtu_bytes(), 1420, "also for pods that come before the peers are known again");
    let report = join(&mut [(&mut a, Some(first)), (&mut b, Some(other))]).remove(0);
    assert_eq!((report.added, report.removed, report.encrypted_ranges), (0, 0, 2));
    assert_eq!(greeting(&mut stream).unwrap().0, "two", "the connection went on");
    // A new key.
    a.restart();
    a.recover(&[&one]);
    let second = a.encrypt("another-key");
    assert_ne!(second, first);
    join(&mut [(&mut a, Some(second)), (&mut b, Some(other))]);
    assert_connected(&one, &two);
    // Others removed the interface: it comes back.
    let mut batch = RouteBatch::new();
    batch.delete_link(INTERFACE);
    batch.send(Rtnetlink::open_in(&a.namespace).unwrap().socket()).unwrap();
    a.network.verify_peers().unwrap();
    assert_connected(&one, &two);
    // Without the switch all of it goes.
    for (node, pod) in [(&mut a, &one), (&mut b, &two)] {
        node.restart();
        end(&node.directory()).unwrap();
        node.recover(&[pod]);
    }
    join(&mut [(&mut a, None), (&mut b, None)]);
    assert!(!a.has_interface(INTERFACE) && a.has_interface("klynge-vx"));
    assert_connected(&one, &two);
    a.encrypt("key");
    a.tunnel = None;
    purge(&a.options, &[]).unwrap();
    assert!(!a.has_interface(INTERFACE));
    let tables = klynge_network::netlink::Nft::open_in(&a.namespace).unwrap().tables().unwrap();
    assert!(tables.iter().all(|table| table.name != ENCRYPTION_TABLE));
}

fn everything_goes_over_ipv6_as_well(forms: [EncryptionForm; 2]) {
    let fabric = Fabric::new();
    let (mut a, mut b) = (
        Secret::new(fabric.node_on(0, 1, Wire::OnlyIpv6), forms[0]),
        Secret::new(fabric.node_on(1, 2, Wire::OnlyIpv6), forms[1]),
    );
    let (one, two) = (a.pod("one").serve(), b.pod("two").serve());
    let keys = [Some(a.encrypt("key")), Some(b.encrypt("key"))];
    join(&mut [(&mut a, keys[0]), (&mut b, keys[1])]);
    assert_connected(&one, &two);
    for (from, to) in [(&one, &two), (&two, &one)] {
        assert_carries(&from.namespace, to.ip(), 3 << 20);
        assert_carries(&from.namespace, to.ip6(), 3 << 20);
    }
}

/// Says a word on an echo connection, and waits for it, as often as TCP may need to send it again.
fn says(stream: &mut std::net::TcpStream, word: &str) {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(word.as_bytes()).unwrap();
    let mut back = vec![0; word.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, word.as_bytes());
}

fn a_killed_process_comes_back_and_connections_live(forms: [EncryptionForm; 2]) {
    let fabric = Fabric::new();
    let (a, _b, one, two) = two(&fabric, forms);
    let mut streams =
        [connect(&one.namespace, two.ip(), 8080).unwrap(), connect(&two.namespace, one.ip6(), 8080).unwrap()];
    for stream in &mut streams {
        greeting(stream).unwrap();
        says(stream, "before");
    }
    let socket = bed::udp_client(&two.namespace);
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    for round in 0..3 {
        let before = a.process();
        a.kill();
        let begun = Instant::now();
        // From the other side, which does not know of it: only what the new process does makes it change its session.
        while bed::ask_udp(&socket, one.ip(), 5353).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(10), "never back");
        }
        println!("  {round}: packets pass {} ms after kill -9", begun.elapsed().as_millis());
        for stream in &mut streams {
            says(stream, "after");
        }
        eventually("another process", || a.process().is_some_and(|now| Some(now) != before));
    }
}

fn another_release_takes_over_and_nothing_is_lost(forms: [EncryptionForm; 2]) {
    let fabric = Fabric::new();
    let (mut a, mut b, one, two) = two(&fabric, forms);
    let stop = Arc::new(AtomicBool::new(false));
    // A question every millisecond each way; each is asked once.
    let talk = |from: &Pod, to: IpAddr| {
        let socket = bed::udp_client(&from.namespace);
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            let (mut asked, mut lost) = (0, 0);
            while !stop.load(Ordering::Relaxed) {
                asked += 1;
                lost += usize::from(bed::ask_udp(&socket, to, 5353).is_err());
                std::thread::sleep(Duration::from_millis(1));
            }
            (asked, lost)
        })
    };
    let talks = [talk(&one, two.ip()), talk(&two, one.ip())];
    let mut stream = connect(&one.namespace, two.ip(), 8080).unwrap();
    greeting(&mut stream).unwrap();
    for round in 0..3 {
        let former = a.process();
        // Another file of the same content is another release.
        let program = a.directory().join(format!("release-{round}"));
        std::fs::copy("/proc/self/exe", &program).unwrap();
        a.program = program;
        a.restart();
        a.recover(&[&one]);
        let key = a.encrypt("key");
        let other = b.encrypted_key();
        join(&mut [(&mut a, Some(key)), (&mut b, Some(other))]);
        eventually("the new process", || a.process() != former);
        let former = Pid::from_raw(former.unwrap().cast_signed()).unwrap();
        eventually("the end of the former", || rustix::process::test_kill_process(former).is_err());
        says(&mut stream, "still there");
    }
    stop.store(true, Ordering::Relaxed);
    for talk in talks {
        let (asked, lost) = talk.join().unwrap();
        println!("  {asked} questions, {lost} lost");
        assert_eq!(lost, 0, "of {asked}");
    }
}

impl Secret {
    fn encrypted_key(&self) -> PublicKey {
        PrivateKey::load(&self.directory().join("key")).unwrap().public_key()
    }
}

fn what_strangers_send_changes_nothing(forms: [EncryptionForm; 2]) {
    let fabric = Fabric::new();
    let (mut a, mut b, one, two) = two(&fabric, forms);
    let (stranger, _) = fabric.machine(0, 9, Wire::Dual);
    let process = a.process();
    let socket = stranger.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let target = (a.ip(), ENCRYPTION_PORT);
    let mut random = 1_u64;
    let mut byte = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        random.to_be_bytes()[0]
    };
    for number in 0..20_000_usize {
        let length = [0, 1, 4, 31, 32, 64, 92, 148, 149, 1400][number % 10];
        let mut datagram: Vec<u8> = (0..length).map(|_| byte()).collect();
        if length >= 4 {
            datagram[..4].copy_from_slice(&[[1, 0, 0, 0], [2, 0, 0, 0], [3, 0, 0, 0], [4, 0, 0, 0]][number % 4]);
        }
        if length >= 8 {
            // Sessions as they are: the first peer's.
            datagram[4..8].copy_from_slice(&u32::try_from(number % 9).unwrap().to_le_bytes());
        }
        socket.send_to(&datagram, target).unwrap();
    }
    assert!(socket.recv_from(&mut [0; 2048]).is_err(), "who does not know the key gets no answer");
    // Who knows the public key may begin handshakes, as many as it likes, and is nobody.
    let key = boringtun::x25519::StaticSecret::from([7; 32]);
    let own = boringtun::x25519::PublicKey::from(a.encrypted_key().0);
    let mut answers = 0;
    for number in 0..2_000 {
        let mut tunnel = boringtun::noise::Tunn::new(key.clone(), own, None, None, number, None);
        let mut space = [0; 256];
        if let boringtun::noise::TunnResult::WriteToNetwork(init) = tunnel.format_handshake_initiation(&mut space, true)
        {
            socket.send_to(init, target).unwrap();
        }
    }
    let mut buffer = [0; 2048];
    while let Ok((length, _)) = socket.recv_from(&mut buffer) {
        assert_eq!((length, buffer[0]), (64, 3), "an answer that is not the demand for a cookie");
        answers += 1;
    }
    println!("  {answers} of 2000 handshakes were asked for a cookie");
    assert!(answers > 0);
    assert_connected(&one, &two);
    assert_eq!(a.process(), process);
    // A peer that is gone is cut at once, whatever its sessions.
    let key = a.encrypted_key();
    join(&mut [(&mut a, Some(key))]);
    assert!(connect(&two.namespace, one.ip(), 8080).is_err());
    let other = b.encrypted_key();
    join(&mut [(&mut a, Some(key)), (&mut b, Some(other))]);
    eventually("the peer is back", || ask(&two.namespace, one.ip(), 8080).is_ok());
}

fn a_node_that_moves_is_followed(forms: [EncryptionForm; 2]) {
    let fabric = Fabric::new();
    let (mut a, b, one, two) = two(&fabric, forms);
    let mut rtnetlink = Rtnetlink::open_in(&b.namespace).unwrap();
    let eth0 = rtnetlink.index_of("eth0").unwrap();
    let mut batch = RouteBatch::new();
    batch.add_address(eth0, "198.51.100.77".parse().unwrap(), 24);
    let way_out = Route {
        destination: prefix("0.0.0.0/0"),
        gateway: Some("198.51.100.254".parse().unwrap()),
        interface: None,
        source: None,
        on_link: false,
    };
    batch.delete_route(&way_out);
    batch.add_route(&Route { source: Some("198.51.100.77".parse().unwrap()), ..way_out });
    batch.send(rtnetlink.socket()).unwrap();
    // It speaks first; from then on it is found where it is, also after a look at what the process knows. The addresses as a header has them.
    let ear = Ear::new(&fabric.router, &[192, 0, 2, 1, 198, 51, 100, 77]);
    eventually("it is heard", || ask(&two.namespace, one.ip(), 8080).is_ok());
    assert_connected(&one, &two);
    eventually("it is spoken to where it is", || ear.marked.load(Ordering::Relaxed) > 10);
    let report = a.network.verify_peers().unwrap();
    assert_eq!((report.added, report.removed), (0, 0));
    assert_connected(&one, &two);
}

/// A node whose kernel has WireGuard from now on.
fn the_form_can_change(forms: [EncryptionForm; 2]) {
    let fabric = Fabric::new();
    let (mut a, mut b, one, two) = two(&fabric, [forms[0], forms[0]]);
    a.restart();
    a.recover(&[&one]);
    end(&a.directory()).unwrap();
    a.form = forms[1];
    let keys = [Some(a.encrypt("key")), Some(b.encrypted_key())];
    join(&mut [(&mut a, keys[0]), (&mut b, keys[1])]);
    // The kernel counts the time of its handshakes 27 seconds behind ours, so that they look old at first.
    let begun = Instant::now();
    while ask(&one.namespace, two.ip(), 8080).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(60), "never connected");
    }
    println!("  connected {} ms after the change", begun.elapsed().as_millis());
    assert_connected(&one, &two);
}
