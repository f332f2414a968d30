//! The certificate of the kubelet's port: asked for through a CertificateSigningRequest, kept, and renewed at two thirds of its life.

use crate::agent::{certificate_for, certificates, is_due};
use client::ClusterClient;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use std::fmt;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};
use x509_parser::extensions::{GeneralName, ParsedExtension};

const SIGNER: &str = "kubernetes.io/kubelet-serving";
/// A request that nobody has approved by then is given up and made anew.
const APPROVAL_WITHIN: Duration = Duration::from_secs(60);
const RETRY_MAX: Duration = Duration::from_secs(300);
/// Renewal is looked at this often, so that a clock that jumps does no harm for long.
const PERIOD: Duration = Duration::from_secs(600);

/// The certificate of the moment; without one no handshake succeeds.
#[derive(Default)]
pub(super) struct Held(RwLock<Option<Arc<CertifiedKey>>>);

impl fmt::Debug for Held {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Held")
    }
}

impl ResolvesServerCert for Held {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What the certificate is for.
pub(super) struct Subject {
    pub(super) node: String,
    pub(super) addresses: Vec<IpAddr>,
    /// Where key and certificate are kept, as PEM, readable by root alone.
    pub(super) path: PathBuf,
}

impl Held {
    /// Takes the certificate that is kept, or asks for one; renews it in time, for ever.
    pub(super) async fn keep(
        self: Arc<Self>,
        config: Arc<ServerConfig>,
        client: Arc<dyn ClusterClient>,
        subject: Subject,
    ) {
        let mut current = std::fs::read_to_string(&subject.path).ok().filter(|pem| covers(pem, &subject));
        if let Some(Err(problem)) = current.as_deref().map(|pem| self.use_pem(&config, pem)) {
            tracing::warn!(problem, "the kept certificate of the kubelet's port is of no use; asking for another");
            current = None;
        }
        let mut wait = Duration::from_secs(1);
        loop {
            if current.as_deref().is_some_and(|pem| !is_due(pem, SystemTime::now())) {
                tokio::time::sleep(PERIOD).await;
                continue;
            }
            match obtain(&*client, &subject).await.and_then(|pem| self.use_pem(&config, &pem).map(|()| pem)) {
                Ok(pem) => {
                    if let Err(error) = save(&subject.path, &pem) {
                        tracing::warn!(%error, path = %subject.path.display(), "cannot keep the certificate of the kubelet's port");
                    }
                    tracing::debug!("the kubelet's port has a new certificate");
                    current = Some(pem);
                    wait = Duration::from_secs(1);
                }
                Err(problem) => {
                    tracing::warn!(problem, "the kubelet's port gets its certificate later");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY_MAX);
                }
            }
        }
    }

    fn use_pem(&self, config: &ServerConfig, pem: &str) -> Result<(), String> {
        let chain = certificates(pem)?;
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| error.to_string())?;
        let key = CertifiedKey::from_der(chain, key, config.crypto_provider()).map_err(|error| error.to_string())?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(key));
        Ok(())
    }
}

async fn obtain(client: &dyn ClusterClient, subject: &Subject) -> Result<String, String> {
    let failed = |error: rcgen::Error| format!("cannot make a certificate request: {error}");
    let key = KeyPair::generate().map_err(failed)?;
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    parameters.distinguished_name.push(DnType::CommonName, format!("system:node:{}", subject.node));
    let name = subject.node.clone().try_into().map_err(failed)?;
    parameters.subject_alt_names = vec![SanType::DnsName(name)];
    parameters.subject_alt_names.extend(subject.addresses.iter().copied().map(SanType::IpAddress));
    let request = parameters.serialize_request(&key).and_then(|request| request.pem()).map_err(failed)?;
    let asked = certificate_for(client, "csr-", SIGNER, &["digital signature", "server auth"], &request);
    let certificate = tokio::time::timeout(APPROVAL_WITHIN, asked)
        .await
        .map_err(|_| format!("no certificate within {} s", APPROVAL_WITHIN.as_secs()))?
        .map_err(|status| status.message)?;
    Ok(format!("{certificate}{}", key.serialize_pem()))
}

fn save(path: &Path, pem: &str) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(directory)?;
    // A temporary file is made with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(pem.as_bytes())?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// Whether the first certificate has exactly the subject's names: a node's addresses change.
fn covers(pem: &str, subject: &Subject) -> bool {
    let Ok(chain) = certificates(pem) else { return false };
    let Some(Ok((_, certificate))) = chain.first().map(|der| x509_parser::parse_x509_certificate(der)) else {
        return false;
    };
    let mut found: Vec<String> = Vec::new();
    for extension in certificate.extensions() {
        let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else { continue };
        found.extend(names.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => match bytes.len() {
                4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
                _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
            },
            _ => None,
        }));
    }
    let mut wanted: Vec<String> = subject.addresses.iter().map(ToString::to_string).collect();
    wanted.push(subject.node.clone());
    found.sort();
    wanted.sort();
    found == wanted
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn certificate(days: u64) -> String {
        let mut parameters = CertificateParams::default();
        parameters.subject_alt_names =
            vec![SanType::DnsName("a".try_into().unwrap()), SanType::IpAddress([192, 0, 2, 1].into())];
        parameters.not_before = SystemTime::UNIX_EPOCH.into();
        parameters.not_after = (SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400)).into();
        let key = KeyPair::generate().unwrap();
        format!("{}{}", parameters.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn a_certificate_is_kept_for_its_names_and_two_thirds_of_its_life() {
        let pem = certificate(30);
        let subject = |node: &str, address: [u8; 4]| Subject {
            node: node.to_owned(),
            addresses: vec![address.into()],
            path: PathBuf::new(),
        };
        assert!(covers(&pem, &subject("a", [192, 0, 2, 1])));
        assert!(!covers(&pem, &subject("b", [192, 0, 2, 1])) && !covers(&pem, &subject("a", [192, 0, 2, 2])));
        assert!(!covers("", &subject("a", [192, 0, 2, 1])));
        let day = |day: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(day * 86_400);
        assert!(!is_due(&pem, day(19)) && is_due(&pem, day(21)) && is_due(&pem, day(31)) && is_due("", day(1)));
    }
}
