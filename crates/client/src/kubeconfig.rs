//! What a kubeconfig's current context says of where the cluster is and who asks.

use crate::tls::Pin;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use object::Value;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// An endpoint with credentials.
pub struct Endpoint {
    /// Host: an address or a name.
    pub host: String,
    /// Port.
    pub port: u16,
    /// The authorities to trust.
    pub authorities: Vec<CertificateDer<'static>>,
    /// Client certificate chain and key.
    pub certificate: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    /// Bearer token.
    pub token: Option<String>,
    /// The authority is not known but by the hash of its key; `authorities` are not looked at then.
    pub pin: Option<Pin>,
}

impl Endpoint {
    /// Reads the current context of a parsed kubeconfig.
    ///
    /// # Errors
    /// A sentence that says what is missing or wrong in the file.
    pub fn from_kubeconfig(config: &Value) -> Result<Self, String> {
        let current = config.str_at(&["current-context"]).filter(|name| !name.is_empty());
        let current =
            current.ok_or("the kubeconfig has no current-context; choose one with kubectl config use-context")?;
        let context = named(config, "contexts", current)?;
        let cluster = named(config, "clusters", context.str_at(&["context", "cluster"]).unwrap_or_default())?;
        let user = named(config, "users", context.str_at(&["context", "user"]).unwrap_or_default())?;
        let server = cluster.str_at(&["cluster", "server"]).unwrap_or_default();
        let uri: http::Uri =
            server.parse().map_err(|error| format!("the server address {server:?} does not parse: {error}"))?;
        if uri.scheme_str() != Some("https") {
            return Err(format!("the server address {server:?} must begin with https://"));
        }
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let authority = data(cluster, &["cluster", "certificate-authority-data"])?.unwrap_or_default();
        let certificate = data(user, &["user", "client-certificate-data"])?;
        let key = data(user, &["user", "client-key-data"])?;
        let certificate = match (certificate, key) {
            (Some(certificate), Some(key)) => {
                let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| format!("client-key-data: {error}"))?;
                Some((certificates(&certificate, "client-certificate-data")?, key))
            }
            _ => None,
        };
        Ok(Endpoint {
            host,
            port: uri.port_u16().unwrap_or(443),
            authorities: certificates(&authority, "certificate-authority-data")?,
            certificate,
            token: user.str_at(&["user", "token"]).map(str::to_owned),
            pin: None,
        })
    }
}

fn named<'a>(config: &'a Value, list: &str, name: &str) -> Result<&'a Value, String> {
    let items = config.get(list).and_then(Value::as_array).unwrap_or_default();
    items
        .iter()
        .find(|item| item.str_at(&["name"]) == Some(name))
        .ok_or_else(|| format!("the kubeconfig has no entry {name:?} in {list}"))
}

fn data(entry: &Value, path: &[&str]) -> Result<Option<Vec<u8>>, String> {
    let Some(text) = entry.str_at(path) else { return Ok(None) };
    let what = path.last().copied().unwrap_or_default();
    STANDARD.decode(text).map(Some).map_err(|error| format!("{what} is no base64: {error}"))
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| format!("{what}: {error}"))
}
