//! TLS to the server: known authorities, or one that a join token pins by the hash of its key.

use crate::kubeconfig::Endpoint;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use sha2::{Digest as _, Sha256};
use std::sync::{Arc, Mutex, PoisonError};

/// The pin of an authority, and where it is put once a server has presented it.
#[derive(Clone, Debug)]
pub struct Pin {
    /// SHA-256 of the authority's SubjectPublicKeyInfo (DER).
    pub hash: [u8; 32],
    learned: Arc<Mutex<Option<CertificateDer<'static>>>>,
}

impl Pin {
    /// A pin that no server has met yet.
    #[must_use]
    pub fn new(hash: [u8; 32]) -> Self {
        Pin { hash, learned: Arc::default() }
    }

    /// The authority's certificate, after a handshake that held.
    #[must_use]
    pub fn authority(&self) -> Option<CertificateDer<'static>> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The configuration for an endpoint; `time` is the clock that certificates are held against.
///
/// # Errors
/// A sentence, when its certificates cannot be used.
pub(crate) fn config(
    endpoint: &Endpoint,
    protocol: &[u8],
    time: &Arc<dyn TimeProvider>,
) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_details(Arc::clone(&provider), Arc::clone(time))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match &endpoint.pin {
        Some(pin) => {
            let verifier = PinnedVerifier { pin: pin.clone(), provider };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        }
        None => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(endpoint.authorities.iter().cloned());
            builder.with_root_certificates(roots)
        }
    };
    let mut config = match &endpoint.certificate {
        Some((chain, key)) => builder
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(|error| format!("the client certificate cannot be used: {error}"))?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(Arc::new(config))
}

/// Believes a chain that holds the pinned authority, and verifies it from there as any other.
#[derive(Debug)]
struct PinnedVerifier {
    pin: Pin,
    provider: Arc<CryptoProvider>,
}

/// SHA-256 of a certificate's SubjectPublicKeyInfo in DER; None for what is no certificate.
#[must_use]
pub fn key_hash(certificate: &CertificateDer<'_>) -> Option<[u8; 32]> {
    let mut store = RootCertStore::empty();
    store.add(certificate.clone().into_owned()).ok()?;
    // The library keeps what is inside of the SEQUENCE; the hash is over all of it.
    let inside = store.roots.first()?.subject_public_key_info.as_ref().to_vec();
    let mut whole = Sha256::new();
    whole.update([0x30]);
    match inside.len() {
        length @ 0..=0x7f => whole.update([length as u8]),
        length @ 0x80..=0xff => whole.update([0x81, length as u8]),
        length => {
            let length = u16::try_from(length).ok()?;
            whole.update([0x82]);
            whole.update(length.to_be_bytes());
        }
    }
    whole.update(&inside);
    Some(whole.finalize().into())
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority = intermediates.iter().find(|one| key_hash(one) == Some(self.pin.hash));
        let authority = authority.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        let verified = verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp, now)?;
        *self.pin.learned.lock().unwrap_or_else(PoisonError::into_inner) = Some(authority.clone().into_owned());
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
