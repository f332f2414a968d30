//! The certificate authority: made at first start, renewed with the same key long before it expires.
//!
//! Lifetimes: authority 10 years, renewed at half; serving certificate 1 year, renewed at two thirds; client
//! certificates as the caller asks, backdated an hour for clocks that differ. A renewed authority keeps its key and
//! name, so what the old one signed, and clients that pinned the old one, go on until the old one's own end.

use super::files;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, DnValue, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::sign::CertifiedKey;
use sha2::{Digest as _, Sha256};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(24 * 3600);
const AUTHORITY_DAYS: u32 = 3650;
const SERVING_DAYS: u32 = 365;
pub(crate) const BACKDATED: Duration = Duration::from_secs(3600);
/// The version of the directory's layout; a newer one is refused.
const FORMAT: &str = "1";

/// Why keys or certificates could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// The operation.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The directory was written by a newer release.
    #[error(
        "{path} has key directory format {found}, this release knows {FORMAT}: start the newer release, or use another --data-dir"
    )]
    Newer {
        /// The format file.
        path: PathBuf,
        /// Its content.
        found: String,
    },
    /// A key or certificate does not parse or could not be made.
    #[error(
        "cannot {what}: {why}; restore the file from a backup, or remove the key directory to make a new authority (every kubeconfig must then be fetched again)"
    )]
    Certificate {
        /// The operation.
        what: String,
        /// The library's words.
        why: String,
    },
}

fn certificate_error(what: impl Into<String>) -> impl FnOnce(rcgen::Error) -> Error {
    let what = what.into();
    move |error| Error::Certificate { what, why: error.to_string() }
}

/// A certificate with its key, both PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// The private key (PKCS#8).
    pub key: String,
}

/// The names and addresses that the serving certificate is good for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// DNS names.
    pub dns: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
}

impl Names {
    /// What every cluster's server is called from inside: `kubernetes.default.svc...`, localhost and loopback.
    #[must_use]
    pub fn inside(cluster_domain: &str, service_address: IpAddr) -> Self {
        let mut names = Names::default();
        for name in ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"] {
            names.dns.push(name.to_owned());
        }
        names.dns.push(format!("kubernetes.default.svc.{cluster_domain}"));
        names.addresses.extend([service_address, IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])]);
        names
    }
}

struct Authority {
    certificate: String,
    key: String,
    /// The current certificate and those before it that still hold, PEM: what clients trust.
    bundle: String,
}

/// The key directory of one server.
pub struct Pki {
    directory: PathBuf,
    names: RwLock<Names>,
    authority: RwLock<Arc<Authority>>,
    serving: RwLock<Arc<CertifiedKey>>,
    token_key: Vec<u8>,
    token_public: Vec<u8>,
}

impl Pki {
    /// Opens or makes the key directory; what is due for renewal at `now` is renewed at once.
    ///
    /// # Errors
    /// Files that cannot be read or written, damaged ones, and a directory of a newer release.
    pub fn open(directory: &Path, names: Names, now: SystemTime) -> Result<Self, Error> {
        files::make_private_directory(directory).map_err(|source| file_error("make", directory, source))?;
        check_format(directory)?;
        let authority = Arc::new(load_authority(directory, now)?);
        let serving = Arc::new(load_serving(directory, &authority, &names, now)?);
        let token = load_key(&directory.join("sa.key"))?;
        Ok(Pki {
            directory: directory.to_owned(),
            names: RwLock::new(names),
            authority: RwLock::new(authority),
            serving: RwLock::new(serving),
            token_key: token.serialize_der(),
            token_public: token.public_key_raw().to_vec(),
        })
    }

    /// The certificates that clients trust, PEM.
    #[must_use]
    pub fn bundle(&self) -> String {
        read(&self.authority).bundle.clone()
    }

    /// The same as DER.
    #[must_use]
    pub fn bundle_der(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(self.bundle().as_bytes()).filter_map(Result::ok).collect()
    }

    /// The serving certificate of the moment.
    #[must_use]
    pub fn serving(&self) -> Arc<CertifiedKey> {
        read(&self.serving)
    }

    /// The key that signs ServiceAccount tokens: PKCS#8 DER, ECDSA P-256.
    #[must_use]
    pub fn token_key(&self) -> &[u8] {
        &self.token_key
    }

    /// Its public half as an uncompressed point (65 bytes).
    #[must_use]
    pub fn token_public_key(&self) -> &[u8] {
        &self.token_public
    }

    /// Issues a client certificate: `user` is the common name, `group` the organisation (the library keeps one).
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub fn issue_client(&self, user: &str, group: &str, valid: Duration, now: SystemTime) -> Result<Issued, Error> {
        let authority = read(&self.authority);
        let mut parameters = parameters(user, Some(group), now, valid);
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        issue(&authority, &parameters, &format!("issue a client certificate for {user}"))
    }

    /// Signs a PKCS#10 request (PEM, RFC 2986): subject and names as it asks, for these usages (Kubernetes' KeyUsage words).
    ///
    /// # Errors
    /// A sentence, where the request does not parse, its signature is wrong, or a usage is none that is signed for.
    pub fn sign_request(
        &self,
        request: &str,
        usages: &[String],
        valid: Duration,
        now: SystemTime,
    ) -> Result<String, String> {
        let mut wanted =
            CertificateSigningRequestParams::from_pem(request).map_err(|error| format!("the request: {error}"))?;
        let parameters = &mut wanted.params;
        parameters.not_before = (now - BACKDATED).into();
        parameters.not_after = (now + valid).into();
        parameters.is_ca = IsCa::ExplicitNoCa;
        parameters.use_authority_key_identifier_extension = true;
        parameters.key_usages.clear();
        parameters.extended_key_usages.clear();
        for usage in usages {
            match usage.as_str() {
                "signing" | "digital signature" => parameters.key_usages.push(KeyUsagePurpose::DigitalSignature),
                "content commitment" => parameters.key_usages.push(KeyUsagePurpose::ContentCommitment),
                "key encipherment" => parameters.key_usages.push(KeyUsagePurpose::KeyEncipherment),
                "data encipherment" => parameters.key_usages.push(KeyUsagePurpose::DataEncipherment),
                "key agreement" => parameters.key_usages.push(KeyUsagePurpose::KeyAgreement),
                "client auth" => parameters.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth),
                "server auth" => parameters.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth),
                "code signing" => parameters.extended_key_usages.push(ExtendedKeyUsagePurpose::CodeSigning),
                "email protection" | "s/mime" => {
                    parameters.extended_key_usages.push(ExtendedKeyUsagePurpose::EmailProtection);
                }
                "timestamping" => parameters.extended_key_usages.push(ExtendedKeyUsagePurpose::TimeStamping),
                "ocsp signing" => parameters.extended_key_usages.push(ExtendedKeyUsagePurpose::OcspSigning),
                other => return Err(format!("this authority signs nothing for the usage {other:?}")),
            }
        }
        let authority = read(&self.authority);
        let failed = |error: rcgen::Error| format!("the authority: {error}");
        let key = KeyPair::from_pem(&authority.key).map_err(failed)?;
        let issuer = Issuer::from_ca_cert_pem(&authority.certificate, key).map_err(failed)?;
        Ok(wanted.signed_by(&issuer).map_err(failed)?.pem())
    }

    /// The SHA-256 of the authority's public key (its SubjectPublicKeyInfo in DER): what join tokens pin.
    ///
    /// # Errors
    /// When the authority's certificate does not parse.
    pub fn pin(&self) -> Result<[u8; 32], Error> {
        let authority = read(&self.authority);
        let damaged = |why: String| Error::Certificate { what: "read the authority".to_owned(), why };
        let der = CertificateDer::from_pem_slice(authority.certificate.as_bytes())
            .map_err(|error| damaged(error.to_string()))?;
        let (_, certificate) = x509_parser::parse_x509_certificate(&der).map_err(|error| damaged(error.to_string()))?;
        Ok(Sha256::digest(certificate.public_key().raw).into())
    }

    /// Renews what is due at `now`; call it every hour. True when anything was renewed.
    ///
    /// # Errors
    /// When a new certificate cannot be made or written; the old ones stay in use.
    pub fn renew(&self, now: SystemTime) -> Result<bool, Error> {
        let authority = Arc::new(load_authority(&self.directory, now)?);
        let renewed_authority = authority.certificate != read(&self.authority).certificate;
        let names = self.names.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let serving = Arc::new(load_serving(&self.directory, &authority, &names, now)?);
        let renewed_serving = serving.cert != read(&self.serving).cert;
        replace(&self.authority, authority);
        replace(&self.serving, serving);
        Ok(renewed_authority || renewed_serving)
    }
}

fn read<T>(slot: &RwLock<Arc<T>>) -> Arc<T> {
    slot.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
}

fn replace<T>(slot: &RwLock<Arc<T>>, value: Arc<T>) {
    *slot.write().unwrap_or_else(std::sync::PoisonError::into_inner) = value;
}

fn file_error(what: &'static str, path: &Path, source: io::Error) -> Error {
    Error::File { what, path: path.to_owned(), source }
}

fn check_format(directory: &Path) -> Result<(), Error> {
    let path = directory.join("FORMAT");
    match files::read(&path).map_err(|source| file_error("read", &path, source))? {
        Some(found) if found.trim() == FORMAT => Ok(()),
        Some(found) => Err(Error::Newer { path, found: found.trim().to_owned() }),
        None => {
            let text = format!("{FORMAT}\n");
            files::write(&path, text.as_bytes(), 0o600).map_err(|source| file_error("write", &path, source))
        }
    }
}

/// Reads a key, or makes one where the file is missing.
fn load_key(path: &Path) -> Result<KeyPair, Error> {
    if let Some(text) = files::read(path).map_err(|source| file_error("read", path, source))? {
        return KeyPair::from_pem(&text).map_err(certificate_error(format!("read the key {}", path.display())));
    }
    let key = KeyPair::generate().map_err(certificate_error("make a key"))?;
    files::write(path, key.serialize_pem().as_bytes(), 0o600).map_err(|source| file_error("write", path, source))?;
    Ok(key)
}

/// The common name that a PKCS#10 request (PEM) asks for.
#[must_use]
pub fn requested_name(request: &str) -> Option<String> {
    let wanted = CertificateSigningRequestParams::from_pem(request).ok()?;
    match wanted.params.distinguished_name.get(&DnType::CommonName)? {
        DnValue::Utf8String(name) => Some(name.clone()),
        DnValue::PrintableString(name) => Some(name.as_str().to_owned()),
        _ => None,
    }
}

fn parameters(common_name: &str, organisation: Option<&str>, now: SystemTime, valid: Duration) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    if let Some(organisation) = organisation {
        parameters.distinguished_name.push(DnType::OrganizationName, organisation);
    }
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    parameters.not_before = (now - BACKDATED).into();
    parameters.not_after = (now + valid).into();
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.use_authority_key_identifier_extension = true;
    parameters
}

fn issue(authority: &Authority, parameters: &CertificateParams, what: &str) -> Result<Issued, Error> {
    let authority_key = KeyPair::from_pem(&authority.key).map_err(certificate_error(what))?;
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, authority_key).map_err(certificate_error(what))?;
    let key = KeyPair::generate().map_err(certificate_error(what))?;
    let certificate = parameters.signed_by(&key, &issuer).map_err(certificate_error(what))?;
    Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// The instants between which the first certificate of a PEM text holds.
pub(super) fn validity(pem: &str) -> Option<(SystemTime, SystemTime)> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
    let instant = |seconds: i64| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?));
    let validity = certificate.validity();
    Some((instant(validity.not_before.timestamp())?, instant(validity.not_after.timestamp())?))
}

/// True when less than `kept` (of 1) of the certificate's life remains, or it does not parse.
fn due(pem: &str, now: SystemTime, kept: f64) -> bool {
    let Some((from, until)) = validity(pem) else { return true };
    let life = until.duration_since(from).unwrap_or_default();
    let rest = until.duration_since(now).unwrap_or_default();
    rest < life.mul_f64(kept)
}

fn load_authority(directory: &Path, now: SystemTime) -> Result<Authority, Error> {
    let path = directory.join("ca.crt");
    let key = load_key(&directory.join("ca.key"))?;
    let old = files::read(&path).map_err(|source| file_error("read", &path, source))?;
    if let Some(bundle) = &old {
        let Some(current) = first_certificate(bundle) else {
            let what = format!("read the authority {}", path.display());
            return Err(Error::Certificate { what, why: "no certificate in it parses".to_owned() });
        };
        if !due(&current, now, 0.5) {
            return Ok(Authority { certificate: current, key: key.serialize_pem(), bundle: bundle.clone() });
        }
    }
    let mut parameters = parameters("klynge-ca", None, now, DAY * AUTHORITY_DAYS);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = parameters.self_signed(&key).map_err(certificate_error("make the authority"))?.pem();
    let bundle = format!("{certificate}{}", still_valid(old.as_deref().unwrap_or_default(), now));
    files::write(&path, bundle.as_bytes(), 0o644).map_err(|source| file_error("write", &path, source))?;
    Ok(Authority { certificate, key: key.serialize_pem(), bundle })
}

fn certificates(pem: &str) -> impl Iterator<Item = String> + '_ {
    const END: &str = "-----END CERTIFICATE-----";
    pem.split_inclusive(END).filter(|part| part.contains(END)).map(|part| format!("{}\n", part.trim()))
}

fn first_certificate(pem: &str) -> Option<String> {
    certificates(pem).next().filter(|one| validity(one).is_some())
}

fn still_valid(pem: &str, now: SystemTime) -> String {
    certificates(pem).filter(|one| validity(one).is_some_and(|(_, until)| until > now)).collect()
}

fn load_serving(
    directory: &Path,
    authority: &Authority,
    names: &Names,
    now: SystemTime,
) -> Result<CertifiedKey, Error> {
    let (path, key_path) = (directory.join("serving.crt"), directory.join("serving.key"));
    let old = files::read(&path).map_err(|source| file_error("read", &path, source))?;
    let old_key = files::read(&key_path).map_err(|source| file_error("read", &key_path, source))?;
    if let (Some(certificate), Some(key)) = (old, old_key)
        && !due(&certificate, now, 1.0 / 3.0)
        && covers(&certificate, names)
        && let Ok(pair) = certified(&certificate, authority, &key)
    {
        return Ok(pair);
    }
    let mut parameters = parameters("klynge", None, now, DAY * SERVING_DAYS);
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    for name in &names.dns {
        let name =
            name.as_str().try_into().map_err(certificate_error(format!("use {name} as a name of the server")))?;
        parameters.subject_alt_names.push(SanType::DnsName(name));
    }
    parameters.subject_alt_names.extend(names.addresses.iter().map(|address| SanType::IpAddress(*address)));
    let issued = issue(authority, &parameters, "issue the serving certificate")?;
    // The key is written first: a crash in between leaves a pair that does not match, which is issued anew.
    files::write(&key_path, issued.key.as_bytes(), 0o600).map_err(|source| file_error("write", &key_path, source))?;
    files::write(&path, issued.certificate.as_bytes(), 0o644).map_err(|source| file_error("write", &path, source))?;
    certified(&issued.certificate, authority, &issued.key)
}

fn covers(pem: &str, names: &Names) -> bool {
    let Ok(der) = CertificateDer::from_pem_slice(pem.as_bytes()) else { return false };
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(&der) else { return false };
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return false };
    let mut held = Names::default();
    for name in &extension.value.general_names {
        match name {
            x509_parser::extensions::GeneralName::DNSName(name) => held.dns.push((*name).to_owned()),
            x509_parser::extensions::GeneralName::IPAddress(bytes) => held.addresses.extend(address(bytes)),
            _ => {}
        }
    }
    names.dns.iter().all(|name| held.dns.contains(name))
        && names.addresses.iter().all(|address| held.addresses.contains(address))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(four));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// The chain ends with the authority, so that who knows only the hash of its key (a join token's pin) can verify it.
fn certified(certificate: &str, authority: &Authority, key: &str) -> Result<CertifiedKey, Error> {
    let wrong = |why: String| Error::Certificate { what: "use the serving certificate".to_owned(), why };
    let text = format!("{certificate}{}", authority.certificate);
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let chain = chain.map_err(|error| wrong(error.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| wrong(error.to_string()))?;
    let provider = rustls::crypto::ring::default_provider();
    let pair = CertifiedKey::from_der(chain, key, &provider).map_err(|error| wrong(error.to_string()))?;
    Ok(pair)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn names() -> Names {
        Names::inside("cluster.local", IpAddr::from([10, 43, 0, 1]))
    }

    #[test]
    fn everything_stays_over_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let first = Pki::open(directory.path(), names(), now).unwrap();
        let second = Pki::open(directory.path(), names(), now + DAY).unwrap();
        assert_eq!(first.bundle(), second.bundle());
        assert_eq!(first.serving().cert, second.serving().cert);
        assert_eq!(first.token_public_key(), second.token_public_key());
        assert_eq!(second.token_public_key().len(), 65);
    }

    #[test]
    fn serving_certificate_is_renewed_at_two_thirds_and_for_new_names() {
        let directory = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let pki = Pki::open(directory.path(), names(), now).unwrap();
        let first = pki.serving();
        assert!(!pki.renew(now + DAY * 200).unwrap());
        assert!(pki.renew(now + DAY * 260).unwrap());
        assert_ne!(first.cert, pki.serving().cert);
        let mut more = names();
        more.dns.push("cluster.example.org".to_owned());
        let other = Pki::open(directory.path(), more, now + DAY * 261).unwrap();
        assert_ne!(other.serving().cert, pki.serving().cert);
    }

    #[test]
    fn renewed_authority_keeps_its_key_and_the_old_certificate_in_the_bundle() {
        let directory = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let pki = Pki::open(directory.path(), names(), now).unwrap();
        let before = pki.bundle();
        assert!(pki.renew(now + DAY * 1900).unwrap());
        assert_eq!(pki.bundle_der().len(), 2);
        assert!(pki.bundle().ends_with(&before));
        assert_eq!(certificates(&pki.bundle()).count(), 2);
        assert!(pki.renew(now + DAY * 3700).unwrap());
        assert_eq!(pki.bundle_der().len(), 2, "the first has expired, the second was renewed again");
    }

    #[test]
    fn newer_format_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("FORMAT"), "2\n").unwrap();
        let error = Pki::open(directory.path(), names(), SystemTime::now()).err().unwrap();
        assert!(error.to_string().contains("format 2"), "{error}");
    }

    #[test]
    fn damaged_authority_is_an_error_that_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        drop(Pki::open(directory.path(), names(), SystemTime::now()).unwrap());
        std::fs::write(directory.path().join("ca.crt"), "rubbish").unwrap();
        let error = Pki::open(directory.path(), names(), SystemTime::now()).err().unwrap();
        assert!(error.to_string().contains("restore the file from a backup"), "{error}");
    }
}
