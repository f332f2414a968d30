//! What the agent and the process of the encryption say to each other: messages as bytes, and back. Pure.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::Prefix;
use crate::netlink::{PublicKey, WireguardPeer};
use crate::process::{self, Malformed, Reader, Writer};

/// How a process was set up; it never changes. The private key itself stays in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// The TUN device.
    pub interface: String,
    /// The UDP port.
    pub port: u16,
    /// The file of the private key.
    pub key_file: PathBuf,
    /// Its public half: a process whose file holds another key is no use.
    pub public_key: PublicKey,
    /// Files that the process writes 0 into to leave the agent's control groups.
    pub groups: Vec<PathBuf>,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// How the process is set up: told to a new one, and by it to every agent.
    Setup(Setup),
    /// A peer as it is now. Without an endpoint the one that is known stays.
    Set(WireguardPeer),
    /// A peer is gone.
    Remove(PublicKey),
    /// All peers follow.
    Begin,
    /// Those that were not told since `Begin` are gone.
    Commit,
    /// Asks for all peers: they come as `Set`, then `Synced`.
    List(u64),
    /// Leave the device and the sockets to another process; sessions that are there go on being opened.
    Rest,
    /// Work again.
    Resume,
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

fn read_peer(reader: &mut Reader<'_>) -> Result<WireguardPeer, Malformed> {
    let key = PublicKey(reader.array()?);
    let endpoint = match &reader.list(Reader::socket)?[..] {
        [] => None,
        [one] => Some(*one),
        _ => return Err(Malformed::Unknown("number of endpoints")),
    };
    let allowed: Vec<Prefix> = reader.list(Reader::prefix)?;
    Ok(WireguardPeer { key, endpoint, allowed })
}

impl process::Message for Message {
    type Setup = Setup;

    fn write(&self, writer: &mut Writer<'_>) {
        match self {
            Self::Setup(setup) => {
                writer.byte(1);
                writer.text(&setup.interface);
                writer.port(setup.port);
                writer.path(&setup.key_file);
                writer.fixed(&setup.public_key.0);
                writer.list(&setup.groups, |writer, path| writer.path(path));
            }
            Self::Set(peer) => {
                writer.byte(2);
                writer.fixed(&peer.key.0);
                let endpoint: Vec<SocketAddr> = peer.endpoint.into_iter().collect();
                writer.list(&endpoint, Writer::socket);
                writer.list(&peer.allowed, Writer::prefix);
            }
            Self::Remove(key) => {
                writer.byte(3);
                writer.fixed(&key.0);
            }
            Self::Begin => writer.byte(4),
            Self::Commit => writer.byte(5),
            Self::List(number) => {
                writer.byte(6);
                writer.number(*number);
            }
            Self::Rest => writer.byte(7),
            Self::Resume => writer.byte(8),
            Self::Sync(number) => {
                writer.byte(9);
                writer.number(*number);
            }
            Self::Synced(number) => {
                writer.byte(10);
                writer.number(*number);
            }
        }
    }

    fn read_from(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match reader.byte()? {
            1 => Self::Setup(Setup {
                interface: reader.text()?,
                port: reader.port()?,
                key_file: reader.path()?,
                public_key: PublicKey(reader.array()?),
                groups: reader.list(Reader::path)?,
            }),
            2 => Self::Set(read_peer(reader)?),
            3 => Self::Remove(PublicKey(reader.array()?)),
            4 => Self::Begin,
            5 => Self::Commit,
            6 => Self::List(reader.number()?),
            7 => Self::Rest,
            8 => Self::Resume,
            9 => Self::Sync(reader.number()?),
            10 => Self::Synced(reader.number()?),
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::process::{LENGTH_BYTES, frame_length};

    #[test]
    fn messages_come_back_and_no_part_of_one_does() {
        let peer = |endpoint: Option<&str>| WireguardPeer {
            key: PublicKey([7; 32]),
            endpoint: endpoint.map(|text| text.parse().unwrap()),
            allowed: vec!["10.42.1.0/24".parse().unwrap(), "fd00:42:0:1::/64".parse().unwrap()],
        };
        for message in [
            Message::Setup(Setup {
                interface: "klynge-wg".to_owned(),
                port: 8478,
                key_file: "/data/network/wireguard.key".into(),
                public_key: PublicKey([9; 32]),
                groups: vec!["/sys/fs/cgroup/klynge/shims/cgroup.procs".into()],
            }),
            Message::Set(peer(None)),
            Message::Set(peer(Some("192.0.2.7:8478"))),
            Message::Set(peer(Some("[2001:db8::7]:8478"))),
            Message::Remove(PublicKey([1; 32])),
            Message::Begin,
            Message::Commit,
            Message::List(3),
            Message::Rest,
            Message::Resume,
            Message::Sync(u64::MAX),
            Message::Synced(7),
        ] {
            let mut bytes = Vec::new();
            assert!(message.append_to(&mut bytes));
            assert_eq!(frame_length(&bytes).unwrap().unwrap(), bytes.len() - LENGTH_BYTES);
            let body = &bytes[LENGTH_BYTES..];
            assert_eq!(Message::read(body), Ok(message.clone()));
            for end in 0..body.len() {
                assert!(Message::read(&body[..end]).is_err(), "{message:?} cut at {end}");
            }
            assert_eq!(Message::read(&[body, &[0]].concat()), Err(Malformed::Long));
        }
        assert_eq!(Message::read(&[0]), Err(Malformed::Unknown("kind of message")));
    }
}
