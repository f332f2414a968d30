//! Joining: a token and a pin become a node's certificate.

use super::identity::Identity;
use crate::cli::Failure;
use crate::server::ClusterFacts;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use client::{CLOCK_DIFFERS, ClusterClient, Endpoint, Https, Pin, Request, Target, Verb, WriteOptions};
use object::{GroupVersionResource, Status, Value, json};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use std::time::Duration;

const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);
const SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";

/// `ID.SECRET.PIN`.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    /// `ID.SECRET`, the bearer token.
    bearer: String,
    /// SHA-256 of the authority's public key.
    pin: [u8; 32],
}

impl Token {
    /// Reads a token.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let shape = "expected ID.SECRET.PIN as `klynge token create` prints it";
        let (bearer, pin) = text.trim().rsplit_once('.').ok_or(shape)?;
        let (id, secret) = bearer.split_once('.').ok_or(shape)?;
        let plain = |text: &str, length: usize| {
            text.len() == length && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        if !plain(id, 6) || !plain(secret, 16) {
            return Err(format!("{shape}: the id has 6 and the secret 16 lower-case letters and digits"));
        }
        let pin = URL_SAFE_NO_PAD.decode(pin).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        let pin = pin.ok_or_else(|| format!("{shape}: the pin is 43 characters of base64url; was the end cut off?"))?;
        Ok(Token { bearer: bearer.to_owned(), pin })
    }

    /// The text of a token.
    pub(crate) fn text(id: &str, secret: &str, pin: [u8; 32]) -> String {
        format!("{id}.{secret}.{}", URL_SAFE_NO_PAD.encode(pin))
    }
}

/// Host and port of `https://HOST[:PORT]`.
pub(crate) fn parse_server(text: &str) -> Result<(String, u16), String> {
    let shape = "expected https://HOST:PORT";
    let uri: http::Uri = text.parse().map_err(|error| format!("{shape}: {error}"))?;
    if uri.scheme_str() != Some("https") || !matches!(uri.path(), "" | "/") {
        return Err(shape.to_owned());
    }
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    if host.is_empty() {
        return Err(shape.to_owned());
    }
    Ok((host, uri.port_u16().unwrap_or(6443)))
}

/// A key and the request for a certificate of `system:node:NODE` with it.
pub(super) fn request(node: &str) -> Result<(KeyPair, Value), Failure> {
    let failed = |error: rcgen::Error| Failure::Failed(format!("cannot make a certificate request: {error}"));
    let key = KeyPair::generate().map_err(failed)?;
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    parameters.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
    let pem = parameters.serialize_request(&key).and_then(|request| request.pem()).map_err(failed)?;
    Ok((key, object("node-csr-", SIGNER, &["digital signature", "client auth"], &pem)))
}

/// The CertificateSigningRequest for a PKCS#10 request in PEM.
fn object(prefix: &str, signer: &str, usages: &[&str], pem: &str) -> Value {
    let mut object = Value::default();
    object.set(&["apiVersion"], "certificates.k8s.io/v1".into());
    object.set(&["kind"], "CertificateSigningRequest".into());
    object.set(&["metadata", "generateName"], prefix.into());
    object.set(&["spec", "request"], STANDARD.encode(pem).into());
    object.set(&["spec", "signerName"], signer.into());
    object.set(&["spec", "usages"], Value::Array(usages.iter().map(|usage| Value::from(*usage)).collect()));
    object
}

/// Asks a signer for a certificate (PEM) and waits until it is approved and signed.
pub(crate) async fn certificate_for(
    client: &dyn ClusterClient,
    prefix: &str,
    signer: &str,
    usages: &[&str],
    request: &str,
) -> Result<String, Status> {
    obtain(client, object(prefix, signer, usages, request)).await
}

fn target(name: &str) -> Target {
    Target {
        resource: GroupVersionResource::new("certificates.k8s.io", "v1", "certificatesigningrequests"),
        namespace: "".into(),
        name: name.into(),
        subresource: "".into(),
    }
}

/// Sends a request and waits for its certificate (PEM).
pub(super) async fn obtain(client: &dyn ClusterClient, object: Value) -> Result<String, Status> {
    let verb = Verb::Create(object, WriteOptions::default());
    let created = client.call(Request { target: target(""), verb }).await?;
    let decode = |bytes: &[u8]| json::decode(bytes, &json::Limits::default()).map_err(Status::internal);
    let mut found = decode(&created.json)?.value;
    let name = found.str_at(&["metadata", "name"]).unwrap_or_default().to_owned();
    let mut wait = POLL;
    loop {
        if let Some(certificate) = found.str_at(&["status", "certificate"]).filter(|text| !text.is_empty()) {
            let pem = STANDARD.decode(certificate).map_err(Status::internal)?;
            return String::from_utf8(pem).map_err(Status::internal);
        }
        let conditions = found.at(&["status", "conditions"]).and_then(Value::as_array).unwrap_or_default();
        for condition in conditions {
            let word = condition.str_at(&["type"]).unwrap_or_default();
            if matches!(word, "Denied" | "Failed") {
                let why = condition.str_at(&["message"]).unwrap_or_default();
                return Err(Status::new(
                    403,
                    "Forbidden",
                    format!("the request {name} was {}: {why}", word.to_lowercase()),
                ));
            }
        }
        tokio::time::sleep(wait).await;
        match client.call(Request { target: target(&name), verb: Verb::Get }).await {
            Ok(answer) => (found, wait) = (decode(&answer.json)?.value, POLL),
            // The request is there, and may have used up a token: a second one would be refused.
            Err(status) if is_passing(&status) => {
                tracing::warn!(problem = status.message, request = name, "asking for the certificate again");
                wait = (wait * 2).min(RETRY_MAX);
            }
            Err(status) => return Err(status),
        }
    }
}

/// A machine with a token at the door of a cluster. It waits for a server that is away.
pub(super) struct Joining {
    host: String,
    port: u16,
    pin: Pin,
    client: Https,
}

impl Joining {
    /// Nothing is sent yet.
    pub(super) fn new(server: &(String, u16), token: &Token) -> Result<Self, Failure> {
        let (host, port) = server.clone();
        let pin = Pin::new(token.pin);
        let endpoint = Endpoint {
            host: host.clone(),
            port,
            authorities: Vec::new(),
            certificate: None,
            token: Some(token.bearer.clone()),
            pin: Some(pin.clone()),
        };
        Ok(Joining { host, port, pin, client: Https::new(endpoint)? })
    }

    /// What the cluster says of itself, which uses up nothing; None from a server of a release that does not tell it to who only joins.
    pub(super) async fn facts(&self) -> Result<Option<ClusterFacts>, Failure> {
        self.patiently(async || match ClusterFacts::fetch(&self.client).await {
            Ok(facts) => Ok(Some(facts)),
            Err(status) if status.code == 403 => Ok(None),
            // The server writes them right after it has begun to answer.
            Err(status) if status.is_not_found() => Err(Status::unavailable(status.message)),
            Err(status) => Err(status),
        })
        .await
    }

    /// Joins as `node`: the token admits it, or is refused.
    pub(super) async fn identity(&self, node: &str) -> Result<Identity, Failure> {
        let (key, object) = request(node)?;
        let certificate = self.patiently(async || obtain(&self.client, object.clone()).await).await?;
        let authority = self.pin.authority();
        let authority = authority.ok_or_else(|| Failure::Failed("the server presented no authority".to_owned()))?;
        Ok(Identity {
            host: self.host.clone(),
            port: self.port,
            node: node.to_owned(),
            authority: pem("CERTIFICATE", &authority),
            certificate,
            key: key.serialize_pem(),
        })
    }

    /// Asks until the server answers, and says what a refusal means.
    async fn patiently<T>(&self, ask: impl AsyncFn() -> Result<T, Status>) -> Result<T, Failure> {
        let mut wait = RETRY_MIN;
        loop {
            match ask().await {
                Ok(answer) => return Ok(answer),
                Err(status) if status.message.contains("UnknownIssuer") => {
                    return Err(Failure::Failed(format!(
                        "the server at {}:{} is not the one that made this token: the key of its authority has another \
                         hash than the token's pin; check --server, or make a new token there",
                        self.host, self.port
                    )));
                }
                Err(status) if status.code == 401 => {
                    return Err(Failure::Failed(
                        "the token does not hold: it is mistyped, has expired, or has admitted as many nodes as it may; make \
                         a new one with `klynge token create`"
                            .to_owned(),
                    ));
                }
                // No wait mends it, and whoever sits before it can.
                Err(status) if status.reason == CLOCK_DIFFERS => {
                    return Err(Failure::Failed(format!("cannot join: {}", status.message)));
                }
                Err(status) if is_passing(&status) => {
                    tracing::warn!(problem = status.message, "joining later");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY_MAX);
                }
                Err(status) => return Err(Failure::Failed(format!("cannot join: {}", status.message))),
            }
        }
    }
}

/// Whether the same request may be answered later.
fn is_passing(status: &Status) -> bool {
    matches!(status.code, 429 | 500 | 503 | 504)
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn tokens_read_back_and_damaged_ones_say_what_is_wrong() {
        let text = Token::text("abcdef", "0123456789abcdef", [9; 32]);
        let token = Token::parse(&format!(" {text}\n")).unwrap();
        assert_eq!((token.bearer.as_str(), token.pin), ("abcdef.0123456789abcdef", [9; 32]));
        for (bad, words) in [
            ("", "expected ID.SECRET.PIN"),
            ("abcdef.0123456789abcdef", "expected ID.SECRET.PIN"),
            (&text[..text.len() - 1], "was the end cut off?"),
            (&text.to_uppercase(), "lower-case"),
        ] {
            let why = Token::parse(bad).unwrap_err();
            assert!(why.contains(words), "{bad}: {why}");
        }
    }

    #[test]
    fn servers_are_https_addresses() {
        let parsed = |text: &str| parse_server(text).ok();
        assert_eq!(parsed("https://192.0.2.1:7443"), Some(("192.0.2.1".into(), 7443)));
        assert_eq!(parsed("https://[2001:db8::1]/"), Some(("2001:db8::1".into(), 6443)));
        assert_eq!(parsed("https://api.example.org"), Some(("api.example.org".into(), 6443)));
        for bad in ["http://192.0.2.1", "192.0.2.1:6443", "https://", "https://a/b", "nonsense"] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }
}
