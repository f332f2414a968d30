//! The file FORMAT, which says what the directory is.

use crate::embedded::disk::{Disk, publish_file, read_up_to, write_all};
use crate::embedded::options::OpenError;
use std::fs;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// The format that this version writes.
pub(crate) const FORMAT_VERSION: u32 = 1;
pub(crate) const FORMAT_NAME: &str = "FORMAT";
const FORMAT_BYTES_MAX: usize = 4096;

/// What FORMAT says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Format {
    /// A random (version 4) UUID, given once to a cluster and kept by its backups.
    pub(crate) cluster: [u8; 16],
    pub(crate) created_unix_seconds: u64,
}

impl Format {
    pub(crate) fn new() -> io::Result<Self> {
        let mut cluster = random::<16>()?;
        cluster[6] = cluster[6] & 0x0f | 0x40;
        cluster[8] = cluster[8] & 0x3f | 0x80;
        Ok(Self { cluster, created_unix_seconds: unix_seconds() })
    }

    /// Reads FORMAT; `None` when there is none.
    pub(crate) fn read(disk: &dyn Disk, directory: &Path) -> Result<Option<Self>, OpenError> {
        let path = directory.join(FORMAT_NAME);
        let file = match disk.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(OpenError::io("open", path)(error)),
        };
        let text = read_up_to(&*file, 0, FORMAT_BYTES_MAX).map_err(OpenError::io("read", &path))?;
        let text = String::from_utf8_lossy(&text);
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.ok_or_else(|| OpenError::corrupt(&path, 0, format!("the line '{name}' is missing")))
        };
        let number = |name: &str| {
            let value = field(name)?;
            value.parse::<u64>().map_err(|_| OpenError::corrupt(&path, 0, format!("'{name} {value}' is no number")))
        };
        let found = u32::try_from(number("klynge-store-format")?).unwrap_or(u32::MAX);
        if found > FORMAT_VERSION {
            return Err(OpenError::NewerFormat { directory: directory.into(), found, supported: FORMAT_VERSION });
        }
        let cluster = parse_uuid(field("cluster")?)
            .ok_or_else(|| OpenError::corrupt(&path, 0, "the cluster's id is not a UUID"))?;
        Ok(Some(Self { cluster, created_unix_seconds: number("created")? }))
    }

    pub(crate) fn write(&self, disk: &dyn Disk, directory: &Path) -> io::Result<()> {
        let text = format!(
            "klynge-store-format {FORMAT_VERSION}\ncluster {}\ncreated {}\n",
            uuid_text(&self.cluster),
            self.created_unix_seconds
        );
        publish_file(disk, directory, FORMAT_NAME, |file| write_all(file, 0, text.as_bytes())).map(drop)
    }
}

/// Random bytes of the operating system.
pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

pub(crate) fn unix_seconds() -> u64 {
    // A clock before 1970 only makes a wrong "created" line.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The usual text form of a UUID.
pub(crate) fn uuid_text(bytes: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if [4, 6, 8, 10].contains(&index) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.chars().filter(|character| *character != '-').collect();
    let number = u128::from_str_radix(&digits, 16).ok()?;
    (digits.len() == 32).then(|| number.to_be_bytes())
}
