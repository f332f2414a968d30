//! What the agent and the process of cluster DNS say to each other: messages as bytes, and back. Pure.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::super::server::Outside;
use super::super::state::{DnsEndpoint, DnsKind, DnsPort, DnsService};
use crate::Prefix;
use crate::process::{self, Malformed, Reader, Writer};
use crate::services::{ServiceKey, TransportProtocol};

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

impl Message {
    /// Appends the message as a frame; one that would be too long is left out, which is told by false.
    pub fn append_to(&self, out: &mut Vec<u8>) -> bool {
        process::Message::append_to(self, out)
    }

    /// Reads a frame without its length.
    ///
    /// # Errors
    /// It is no message of this version.
    pub fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        process::Message::read(bytes)
    }
}

impl process::Message for Message {
    type Setup = Setup;

    fn write(&self, writer: &mut Writer<'_>) {
        match self {
            Self::Setup(setup) => {
                writer.byte(1);
                writer.list(&setup.listen, Writer::socket);
                writer.text(&setup.domain);
                writer.list(&setup.reverse_ranges, Writer::prefix);
                writer.list(&setup.resolv_conf, |writer, path| writer.path(path));
                writer.list(&setup.groups, |writer, path| writer.path(path));
            }
            Self::Set(key, service) => {
                writer.byte(2);
                write_key(writer, key);
                write_service(writer, service);
            }
            Self::Remove(key) => {
                writer.byte(3);
                write_key(writer, key);
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

    fn read_from(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match reader.byte()? {
            1 => Self::Setup(Setup {
                listen: reader.list(Reader::socket)?,
                domain: reader.text()?,
                reverse_ranges: reader.list(Reader::prefix)?,
                resolv_conf: reader.list(Reader::path)?,
                groups: reader.list(Reader::path)?,
            }),
            2 => Self::Set(read_key(reader)?, read_service(reader)?),
            3 => Self::Remove(read_key(reader)?),
            4 => Self::Begin,
            5 => Self::Commit,
            6 => Self::Outside(Outside {
                stub_domains: reader.list(|reader| Ok((reader.text()?, reader.list(Reader::socket)?)))?,
                servers: reader.list(Reader::socket)?,
            }),
            7 => Self::Sync(reader.number()?),
            8 => Self::Synced(reader.number()?),
            _ => return Err(Malformed::Unknown("kind of message")),
        })
    }

    fn of_setup(setup: Setup) -> Self {
        Self::Setup(setup)
    }

    fn setup(self) -> Option<Setup> {
        match self {
            Self::Setup(setup) => Some(setup),
            _ => None,
        }
    }

    fn synced(&self) -> Option<u64> {
        match self {
            Self::Synced(number) => Some(*number),
            _ => None,
        }
    }
}

fn write_key(writer: &mut Writer<'_>, key: &ServiceKey) {
    writer.text(&key.namespace);
    writer.text(&key.name);
}

fn write_service(writer: &mut Writer<'_>, service: &DnsService) {
    match &service.kind {
        DnsKind::ClusterIps(addresses) => {
            writer.byte(1);
            writer.list(addresses, |writer, address| writer.address(*address));
        }
        DnsKind::Headless(endpoints) => {
            writer.byte(2);
            writer.list(endpoints, |writer, endpoint| {
                writer.address(endpoint.ip);
                writer.byte(u8::from(endpoint.hostname.is_some()));
                if let Some(hostname) = &endpoint.hostname {
                    writer.text(hostname);
                }
            });
        }
        DnsKind::ExternalName(name) => {
            writer.byte(3);
            writer.text(name);
        }
    }
    writer.list(&service.ports, |writer, port| {
        writer.text(&port.name);
        writer.byte(port.protocol.number());
        writer.port(port.port);
    });
}

fn read_key(reader: &mut Reader<'_>) -> Result<ServiceKey, Malformed> {
    Ok(ServiceKey::new(reader.text()?, reader.text()?))
}

fn read_service(reader: &mut Reader<'_>) -> Result<DnsService, Malformed> {
    let kind = match reader.byte()? {
        1 => DnsKind::ClusterIps(reader.list(Reader::address)?),
        2 => DnsKind::Headless(reader.list(|reader| {
            let ip = reader.address()?;
            let hostname = match reader.byte()? {
                0 => None,
                1 => Some(reader.text()?),
                _ => return Err(Malformed::Unknown("form of endpoints")),
            };
            Ok(DnsEndpoint { ip, hostname })
        })?),
        3 => DnsKind::ExternalName(reader.text()?),
        _ => return Err(Malformed::Unknown("kind of Services")),
    };
    let ports = reader.list(|reader| {
        let name = reader.text()?;
        let number = reader.byte()?;
        let all = [TransportProtocol::Tcp, TransportProtocol::Udp, TransportProtocol::Sctp];
        let protocol = all.into_iter().find(|protocol| protocol.number() == number);
        let protocol = protocol.ok_or(Malformed::Unknown("protocol"))?;
        Ok(DnsPort { name, protocol, port: reader.port()? })
    })?;
    Ok(DnsService { kind, ports })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::super::Names;
    use super::*;
    use crate::process::{FRAME_BYTES_MAX, Kind as _, LENGTH_BYTES, frame_length, greeted, greeting};

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
        assert_eq!(greeted::<Names>(&greeting::<Names>()), Some(Names::VERSION));
        let mut other = greeting::<Names>();
        other[12] = 9;
        assert_eq!(greeted::<Names>(&other), Some(9));
        other[0] = b'K';
        assert_eq!(greeted::<Names>(&other), None);
    }
}
