//! What the agent and the process of cluster DNS say to each other: messages as bytes, and back. Pure.
//!
//! A connection begins with a greeting each way, which is the same in all versions: whoever finds a process of another version can
//! always take its sockets over and end it. Then come frames: four bytes of length (little-endian, of what follows), one byte of kind,
//! the rest. A reader gives up on what it does not know.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::super::server::Outside;
use super::super::state::{DnsEndpoint, DnsKind, DnsPort, DnsService};
use crate::Prefix;
use crate::services::{ServiceKey, TransportProtocol};

/// The version of everything after the greeting.
pub(crate) const VERSION: u32 = 1;
/// How long a greeting is.
pub(crate) const GREETING_BYTES: usize = 16;
const MAGIC: &[u8; 12] = b"klynge-dns\n\0";
/// The longest frame: a headless Service with some 150,000 endpoints.
pub const FRAME_BYTES_MAX: usize = 16 << 20;
/// Addresses to answer on at most; each has two sockets, and a message carries 253 descriptors.
pub(crate) const ADDRESSES_MAX: usize = 64;
/// What a frame begins with: its length.
pub(crate) const LENGTH_BYTES: usize = 4;

/// How a process of cluster DNS was set up; it never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// The addresses to answer on.
    pub listen: Vec<SocketAddr>,
    /// The cluster domain.
    pub domain: String,
    /// The cluster's address ranges.
    pub reverse_ranges: Vec<Prefix>,
    /// Where the host's resolvers are listed.
    pub resolv_conf: Vec<PathBuf>,
    /// Files that the process writes 0 into to leave the agent's control groups.
    pub groups: Vec<PathBuf>,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// How the process is set up: told to a new one, and by it to every agent.
    Setup(Setup),
    /// A Service as it is now.
    Set(ServiceKey, DnsService),
    /// A Service is gone.
    Remove(ServiceKey),
    /// All Services follow.
    Begin,
    /// Those that were not told since `Begin` are gone.
    Commit,
    /// Who is asked about names outside the cluster.
    Outside(Outside),
    /// Asks whether all before is in force.
    Sync(u64),
    /// It is.
    Synced(u64),
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// They end too early.
    #[error("the message is cut off")]
    Short,
    /// There are more than the message has.
    #[error("there are bytes after the message")]
    Long,
    /// A frame is longer than allowed.
    #[error("a message is longer than {FRAME_BYTES_MAX} bytes")]
    TooLong,
    /// A number stands for nothing.
    #[error("the message holds an unknown {0}")]
    Unknown(&'static str),
    /// A text is none.
    #[error("a text is not UTF-8")]
    Text,
}

/// The greeting of this version.
pub(crate) fn greeting() -> [u8; GREETING_BYTES] {
    let mut bytes = [0; GREETING_BYTES];
    let (magic, version) = bytes.split_at_mut(MAGIC.len());
    magic.copy_from_slice(MAGIC);
    version.copy_from_slice(&VERSION.to_le_bytes());
    bytes
}

/// The version that a greeting tells; none where it is no greeting of ours.
pub(crate) fn greeted(bytes: &[u8; GREETING_BYTES]) -> Option<u32> {
    let (magic, version) = bytes.split_at(MAGIC.len());
    if magic != MAGIC {
        return None;
    }
    version.try_into().ok().map(u32::from_le_bytes)
}

/// How long the frame that begins here is without its length; none where that is not yet known.
pub(crate) fn frame_length(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let Some(length) = bytes.get(..LENGTH_BYTES).and_then(|length| length.try_into().ok()) else { return Ok(None) };
    match usize::try_from(u32::from_le_bytes(length)) {
        Ok(length) if length <= FRAME_BYTES_MAX => Ok(Some(length)),
        _ => Err(Malformed::TooLong),
    }
}

impl Message {
    /// Appends the message as a frame; one that would be too long is left out, which is told by false.
    pub fn append_to(&self, out: &mut Vec<u8>) -> bool {
        let begin = out.len();
        out.extend_from_slice(&[0; LENGTH_BYTES]);
        let mut writer = Writer { out, complete: true };
        self.write(&mut writer);
        let complete = writer.complete;
        let length = out.len() - begin - LENGTH_BYTES;
        let Some(length) = u32::try_from(length).ok().filter(|_| complete && length <= FRAME_BYTES_MAX) else {
            out.truncate(begin);
            return false;
        };
        if let Some(field) = out.get_mut(begin..begin + LENGTH_BYTES) {
            field.copy_from_slice(&length.to_le_bytes());
        }
        true
    }

    fn write(&self, writer: &mut Writer<'_>) {
        match self {
            Self::Setup(setup) => {
                writer.byte(1);
                writer.list(&setup.listen, Writer::socket);
                writer.text(&setup.domain);
                writer.list(&setup.reverse_ranges, |writer, range| {
                    writer.address(range.network());
                    writer.byte(range.length());
                });
                writer.list(&setup.resolv_conf, |writer, path| writer.path(path));
                writer.list(&setup.groups, |writer, path| writer.path(path));
            }
            Self::Set(key, service) => {
                writer.byte(2);
                writer.key(key);
                writer.service(service);
            }
            Self::Remove(key) => {
                writer.byte(3);
                writer.key(key);
            }
            Self::Begin => writer.byte(4),
            Self::Commit => writer.byte(5),
            Self::Outside(outside) => {
                writer.byte(6);
                writer.list(&outside.stub_domains, |writer, (domain, servers)| {
                    writer.text(domain);
                    writer.list(servers, Writer::socket);
                });
                writer.list(&outside.servers, Writer::socket);
            }
            Self::Sync(number) => {
                writer.byte(7);
                writer.number(*number);
            }
            Self::Synced(number) => {
                writer.byte(8);
                writer.number(*number);
            }
        }
    }

    /// Reads a frame without its length.
    ///
    /// # Errors
    /// It is no message of this version.
    pub fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(bytes);
        let message = match reader.byte()? {
            1 => Self::Setup(Setup {
                listen: reader.list(Reader::socket)?,
                domain: reader.text()?,
                reverse_ranges: reader.list(|reader| Ok(Prefix::new(reader.address()?, reader.byte()?)))?,
                resolv_conf: reader.list(Reader::path)?,
                groups: reader.list(Reader::path)?,
            }),
            2 => Self::Set(reader.key()?, reader.service()?),
            3 => Self::Remove(reader.key()?),
            4 => Self::Begin,
            5 => Self::Commit,
            6 => Self::Outside(Outside {
                stub_domains: reader.list(|reader| Ok((reader.text()?, reader.list(Reader::socket)?)))?,
                servers: reader.list(Reader::socket)?,
            }),
            7 => Self::Sync(reader.number()?),
            8 => Self::Synced(reader.number()?),
            _ => return Err(Malformed::Unknown("kind of message")),
        };
        if reader.0.is_empty() { Ok(message) } else { Err(Malformed::Long) }
    }
}

struct Writer<'a> {
    out: &'a mut Vec<u8>,
    /// False once something did not fit its length.
    complete: bool,
}

impl Writer<'_> {
    fn byte(&mut self, byte: u8) {
        self.out.push(byte);
    }

    fn number(&mut self, number: u64) {
        self.out.extend_from_slice(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        match u16::try_from(bytes.len()) {
            Ok(length) => {
                self.out.extend_from_slice(&length.to_le_bytes());
                self.out.extend_from_slice(bytes);
            }
            Err(_) => self.complete = false,
        }
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn path(&mut self, path: &Path) {
        self.bytes(path.as_os_str().as_bytes());
    }

    fn list<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) {
        match u32::try_from(items.len()) {
            Ok(count) => self.out.extend_from_slice(&count.to_le_bytes()),
            Err(_) => self.complete = false,
        }
        for item in items {
            // What is already too long is not made longer.
            if self.out.len() > 2 * FRAME_BYTES_MAX {
                self.complete = false;
            }
            if !self.complete {
                return;
            }
            write(self, item);
        }
    }

    fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => {
                self.byte(4);
                self.out.extend_from_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                self.byte(6);
                self.out.extend_from_slice(&address.octets());
            }
        }
    }

    fn port(&mut self, port: u16) {
        self.out.extend_from_slice(&port.to_le_bytes());
    }

    fn socket(&mut self, socket: &SocketAddr) {
        self.address(socket.ip());
        self.port(socket.port());
    }

    fn key(&mut self, key: &ServiceKey) {
        self.text(&key.namespace);
        self.text(&key.name);
    }

    fn service(&mut self, service: &DnsService) {
        match &service.kind {
            DnsKind::ClusterIps(addresses) => {
                self.byte(1);
                self.list(addresses, |writer, address| writer.address(*address));
            }
            DnsKind::Headless(endpoints) => {
                self.byte(2);
                self.list(endpoints, |writer, endpoint| {
                    writer.address(endpoint.ip);
                    writer.byte(u8::from(endpoint.hostname.is_some()));
                    if let Some(hostname) = &endpoint.hostname {
                        writer.text(hostname);
                    }
                });
            }
            DnsKind::ExternalName(name) => {
                self.byte(3);
                self.text(name);
            }
        }
        self.list(&service.ports, |writer, port| {
            writer.text(&port.name);
            writer.byte(port.protocol.number());
            writer.port(port.port);
        });
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], Malformed> {
        self.take(LENGTH)?.try_into().map_err(|_| Malformed::Short)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = u16::from_le_bytes(self.array()?);
        self.take(usize::from(length))
    }

    fn text(&mut self) -> Result<String, Malformed> {
        std::str::from_utf8(self.bytes()?).map(str::to_owned).map_err(|_| Malformed::Text)
    }

    fn path(&mut self) -> Result<PathBuf, Malformed> {
        Ok(PathBuf::from(std::ffi::OsStr::from_bytes(self.bytes()?)))
    }

    /// Every item takes at least a byte, so a list is never longer than its message; nothing is set aside for what is only promised.
    fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Result<T, Malformed>) -> Result<Vec<T>, Malformed> {
        let count = u32::from_le_bytes(self.array()?);
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(read(self)?);
        }
        items.shrink_to_fit();
        Ok(items)
    }

    fn address(&mut self) -> Result<IpAddr, Malformed> {
        match self.byte()? {
            4 => Ok(IpAddr::V4(Ipv4Addr::from(self.array::<4>()?))),
            6 => Ok(IpAddr::V6(Ipv6Addr::from(self.array::<16>()?))),
            _ => Err(Malformed::Unknown("family of addresses")),
        }
    }

    fn port(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn socket(&mut self) -> Result<SocketAddr, Malformed> {
        Ok(SocketAddr::new(self.address()?, self.port()?))
    }

    fn key(&mut self) -> Result<ServiceKey, Malformed> {
        Ok(ServiceKey::new(self.text()?, self.text()?))
    }

    fn service(&mut self) -> Result<DnsService, Malformed> {
        let kind = match self.byte()? {
            1 => DnsKind::ClusterIps(self.list(Self::address)?),
            2 => DnsKind::Headless(self.list(|reader| {
                let ip = reader.address()?;
                let hostname = match reader.byte()? {
                    0 => None,
                    1 => Some(reader.text()?),
                    _ => return Err(Malformed::Unknown("form of endpoints")),
                };
                Ok(DnsEndpoint { ip, hostname })
            })?),
            3 => DnsKind::ExternalName(self.text()?),
            _ => return Err(Malformed::Unknown("kind of Services")),
        };
        let ports = self.list(|reader| {
            let name = reader.text()?;
            let number = reader.byte()?;
            let all = [TransportProtocol::Tcp, TransportProtocol::Udp, TransportProtocol::Sctp];
            let protocol = all.into_iter().find(|protocol| protocol.number() == number);
            let protocol = protocol.ok_or(Malformed::Unknown("protocol"))?;
            Ok(DnsPort { name, protocol, port: reader.port()? })
        })?;
        Ok(DnsService { kind, ports })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn samples() -> Vec<Message> {
        let ports = vec![
            DnsPort { name: "http".to_owned(), protocol: TransportProtocol::Tcp, port: 80 },
            DnsPort { name: String::new(), protocol: TransportProtocol::Sctp, port: 65535 },
        ];
        let kinds = [
            DnsKind::ClusterIps(vec!["10.43.0.7".parse().unwrap(), "fd00::7".parse().unwrap()]),
            DnsKind::Headless(vec![
                DnsEndpoint { ip: "10.42.0.7".parse().unwrap(), hostname: Some("db-0".to_owned()) },
                DnsEndpoint { ip: "fd00::8".parse().unwrap(), hostname: None },
            ]),
            DnsKind::ExternalName("example.org".to_owned()),
        ];
        let key = ServiceKey::new("default", "web");
        let mut all: Vec<Message> = kinds
            .into_iter()
            .map(|kind| Message::Set(key.clone(), DnsService { kind, ports: ports.clone() }))
            .collect();
        all.extend([
            Message::Setup(Setup {
                listen: vec!["10.43.0.10:53".parse().unwrap(), "[fd00::a]:53".parse().unwrap()],
                domain: "cluster.local".to_owned(),
                reverse_ranges: vec!["10.42.0.0/16".parse().unwrap(), "fd00::/64".parse().unwrap()],
                resolv_conf: vec!["/etc/resolv.conf".into()],
                groups: vec!["/sys/fs/cgroup/klynge/shims/cgroup.procs".into()],
            }),
            Message::Remove(key),
            Message::Begin,
            Message::Commit,
            Message::Outside(Outside {
                stub_domains: vec![("corp.example".to_owned(), vec!["192.0.2.53:53".parse().unwrap()])],
                servers: vec!["[2001:db8::53]:5353".parse().unwrap()],
            }),
            Message::Sync(u64::MAX),
            Message::Synced(7),
        ]);
        all
    }

    #[test]
    fn messages_come_back_and_no_part_of_one_does() {
        for message in samples() {
            let mut bytes = Vec::new();
            assert!(message.append_to(&mut bytes));
            let length = frame_length(&bytes).unwrap().unwrap();
            assert_eq!(length, bytes.len() - LENGTH_BYTES);
            let body = &bytes[LENGTH_BYTES..];
            assert_eq!(Message::read(body), Ok(message.clone()));
            for end in 0..body.len() {
                assert!(Message::read(&body[..end]).is_err(), "{message:?} cut at {end}");
            }
            assert_eq!(Message::read(&[body, &[0]].concat()), Err(Malformed::Long));
        }
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for (bytes, why) in [
            (&[][..], Malformed::Short),
            (&[0], Malformed::Unknown("kind of message")),
            (&[99], Malformed::Unknown("kind of message")),
            (&[3, 1, 0, 0xff, 0, 0], Malformed::Text),
            // A list that promises four billion items.
            (&[6, 0xff, 0xff, 0xff, 0xff], Malformed::Short),
            (&[2, 0, 0, 0, 0, 9], Malformed::Unknown("kind of Services")),
            (&[2, 0, 0, 0, 0, 1, 1, 0, 0, 0, 5], Malformed::Unknown("family of addresses")),
        ] {
            assert_eq!(Message::read(bytes), Err(why), "{bytes:?}");
        }
    }

    #[test]
    fn frames_have_a_limit_on_both_sides() {
        assert_eq!(frame_length(&[1, 0, 0]), Ok(None));
        let longest = u32::try_from(FRAME_BYTES_MAX).unwrap();
        assert_eq!(frame_length(&longest.to_le_bytes()), Ok(Some(FRAME_BYTES_MAX)));
        assert_eq!(frame_length(&(longest + 1).to_le_bytes()), Err(Malformed::TooLong));
        let endpoint = DnsEndpoint { ip: "fd00::8".parse().unwrap(), hostname: Some("x".repeat(63)) };
        let service = |count| DnsService { kind: DnsKind::Headless(vec![endpoint.clone(); count]), ports: Vec::new() };
        let key = ServiceKey::new("default", "huge");
        let mut bytes = vec![7];
        assert!(!Message::Set(key.clone(), service(300_000)).append_to(&mut bytes));
        assert!(!Message::Set(key.clone(), service(1_000_000)).append_to(&mut bytes));
        assert_eq!(bytes, [7], "nothing is left of a message that is too long");
        assert!(Message::Set(key, service(150_000)).append_to(&mut bytes));
        let name = ServiceKey::new("default", "y".repeat(70_000));
        assert!(!Message::Remove(name).append_to(&mut bytes));
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_read_is_written_back(kind in 0_u8..10, rest in proptest::collection::vec(0_u8..8, 0..60)) {
            if let Ok(message) = Message::read(&[&[kind], &rest[..]].concat()) {
                let mut bytes = Vec::new();
                assert!(message.append_to(&mut bytes));
                assert_eq!(Message::read(&bytes[LENGTH_BYTES..]), Ok(message));
            }
        }
    }

    #[test]
    fn greetings_tell_their_version() {
        assert_eq!(greeted(&greeting()), Some(VERSION));
        let mut other = greeting();
        other[12] = 9;
        assert_eq!(greeted(&other), Some(9));
        other[0] = b'K';
        assert_eq!(greeted(&other), None);
    }
}
