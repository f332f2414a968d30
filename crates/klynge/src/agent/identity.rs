//! What a joined machine keeps of its cluster: where it is, whom to trust, and the node's key and certificate.

use crate::cli::{Failure, Global};
use client::Endpoint;
use object::{Map, Value, json};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// The version of the file; a newer one is refused.
const FORMAT: i64 = 1;

/// The identity of a node.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) node: String,
    /// PEM, one or more.
    pub(crate) authority: String,
    /// PEM, the chain.
    pub(crate) certificate: String,
    /// PEM, PKCS#8.
    pub(crate) key: String,
}

fn path(global: &Global) -> PathBuf {
    global.data_dir.join("agent").join("identity.json")
}

impl Identity {
    /// Reads it; None where this machine has not joined.
    pub(crate) fn load(global: &Global) -> Result<Option<Self>, Failure> {
        let path = path(global);
        let damaged = |why: &str| {
            Failure::Failed(format!("{}: {why}; remove the file and join again with a new token", path.display()))
        };
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::Failed(format!("cannot read {}: {error}", path.display()))),
        };
        let value = json::decode(&bytes, &json::Limits::default()).map_err(|error| damaged(&error.to_string()))?.value;
        match value.i64_at(&["format"]) {
            Some(FORMAT) => {}
            Some(newer) if newer > FORMAT => {
                return Err(Failure::Failed(format!(
                    "{} has format {newer}, this release knows {FORMAT}: start the newer release",
                    path.display()
                )));
            }
            _ => return Err(damaged("it has no format")),
        }
        let text =
            |key: &str| value.str_at(&[key]).map(str::to_owned).ok_or_else(|| damaged(&format!("{key} is missing")));
        Ok(Some(Identity {
            host: text("host")?,
            port: value
                .i64_at(&["port"])
                .and_then(|port| port.try_into().ok())
                .ok_or_else(|| damaged("port is missing"))?,
            node: text("node")?,
            authority: text("authority")?,
            certificate: text("certificate")?,
            key: text("key")?,
        }))
    }

    /// Writes it, all or nothing, readable by root alone.
    pub(crate) fn save(&self, global: &Global) -> Result<(), Failure> {
        let path = path(global);
        let failed = |error: std::io::Error| Failure::Failed(format!("cannot write {}: {error}", path.display()));
        let directory = global.data_dir.join("agent");
        std::fs::create_dir_all(&directory).map_err(failed)?;
        let mut members = Map::new();
        members.insert("format", FORMAT);
        members.insert("host", self.host.as_str());
        members.insert("port", i64::from(self.port));
        for (key, text) in [
            ("node", &self.node),
            ("authority", &self.authority),
            ("certificate", &self.certificate),
            ("key", &self.key),
        ] {
            members.insert(key, text.as_str());
        }
        // A temporary file is made with mode 0600.
        let mut file = tempfile::NamedTempFile::new_in(&directory).map_err(failed)?;
        file.write_all(&json::encode(&Value::Object(members))).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(&path).map_err(|error| failed(error.error))?;
        Ok(())
    }

    /// Forgets it: the machine can join again with a new token.
    pub(crate) fn remove(global: &Global) -> Result<(), Failure> {
        let path = path(global);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Failure::Failed(format!("cannot remove {}: {error}", path.display())))
            }
            _ => Ok(()),
        }
    }

    /// Chain and key as the client takes them.
    pub(crate) fn pair(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
        Ok((
            certificates(&self.certificate)?,
            PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|error| error.to_string())?,
        ))
    }

    /// Where the cluster is, and who asks.
    pub(crate) fn endpoint(&self) -> Result<Endpoint, String> {
        Ok(Endpoint {
            host: self.host.clone(),
            port: self.port,
            authorities: certificates(&self.authority)?,
            certificate: Some(self.pair()?),
            token: None,
            pin: None,
        })
    }
}

/// Whether the first certificate of a chain (PEM) is in the last third of its life, or cannot be read: then it is renewed.
pub(crate) fn is_due(pem: &str, now: SystemTime) -> bool {
    let Some((from, until)) = validity(pem) else { return true };
    let life = until.duration_since(from).unwrap_or_default();
    until.duration_since(now).unwrap_or_default() < life / 3
}

/// When it begins and ends.
fn validity(pem: &str) -> Option<(SystemTime, SystemTime)> {
    let der = certificates(pem).ok()?.into_iter().next()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
    let at = |seconds: i64| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?));
    let validity = certificate.validity();
    Some((at(validity.not_before.timestamp())?, at(validity.not_after.timestamp())?))
}

/// The certificates of a PEM text.
pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(|error| error.to_string())
}
