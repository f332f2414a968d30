//! The registry protocol (OCI distribution, Docker registry v2): requests with token authentication, redirects, retries.

use std::{io, time::Duration};

use base64::Engine;
use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use serde::Deserialize;
use tokio::sync::Mutex;

use super::{config::DOCUMENT_BYTES_MAX, error::ImageError, pull::Credentials, reference::Reference, transport};

const ATTEMPTS_MAX: u32 = 5;
const REDIRECTS_MAX: usize = 5;
const CHUNK_TIMEOUT: Duration = Duration::from_secs(60);
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                         application/vnd.docker.distribution.manifest.list.v2+json, \
                         application/vnd.docker.distribution.manifest.v2+json";

/// A repository of a registry, with what it takes to read it.
pub(crate) struct Repository {
    reference: Reference,
    base: String,
    credentials: Option<Credentials>,
    /// The value of the Authorization header, once the registry has asked for one.
    authorization: Mutex<Option<String>>,
}

/// How an attempt failed.
enum Failure {
    /// Another attempt may succeed.
    Again(String),
    Final(ImageError),
}

impl Repository {
    pub(crate) fn new(reference: &Reference, insecure: bool, credentials: Option<Credentials>) -> Repository {
        let scheme = if insecure { "http" } else { "https" };
        let base = format!("{scheme}://{}/v2/{}", reference.registry_host(), reference.repository);
        Repository { reference: reference.clone(), base, credentials, authorization: Mutex::new(None) }
    }

    fn failed(&self, reason: impl Into<String>) -> ImageError {
        ImageError::Registry { reference: self.reference.to_string(), reason: reason.into() }
    }

    /// A manifest or index by tag or digest.
    pub(crate) async fn manifest(&self, target: &str) -> Result<Bytes, ImageError> {
        self.document(&format!("{}/manifests/{target}", self.base), MANIFESTS).await
    }

    /// A small blob.
    pub(crate) async fn small_blob(&self, digest: &str) -> Result<Bytes, ImageError> {
        self.document(&format!("{}/blobs/{digest}", self.base), "*/*").await
    }

    async fn document(&self, url: &str, accept: &str) -> Result<Bytes, ImageError> {
        self.retry(|| async {
            let response = self.get(url, accept, 0).await?;
            let body = http_body_util::Limited::new(response.into_body(), DOCUMENT_BYTES_MAX);
            match tokio::time::timeout(CHUNK_TIMEOUT, body.collect()).await {
                Ok(Ok(body)) => Ok(body.to_bytes()),
                Ok(Err(error)) => Err(Failure::Again(format!("reading {url}: {}", causes(&*error)))),
                Err(_) => Err(Failure::Again(format!("reading {url}: no data in time"))),
            }
        })
        .await
    }

    /// A large blob in chunks. After a broken connection it goes on where it stopped, where the registry can.
    pub(crate) async fn blob(
        &self,
        digest: &str,
        size: u64,
        mut sink: impl FnMut(u64, &[u8]) -> Result<(), ImageError>,
    ) -> Result<(), ImageError> {
        let url = format!("{}/blobs/{digest}", self.base);
        let mut have = 0u64;
        let mut attempt = 0;
        loop {
            let before = have;
            match self.blob_from(&url, size, &mut have, &mut sink).await {
                Ok(()) => return Ok(()),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again(reason)) => {
                    // Progress resets the count: a long download over a bad line still ends.
                    attempt = if have > before { 1 } else { attempt + 1 };
                    if attempt >= ATTEMPTS_MAX {
                        return Err(self.failed(format!("failed to copy {digest}: {reason}")));
                    }
                    pause(attempt).await;
                }
            }
        }
    }

    async fn blob_from(
        &self,
        url: &str,
        size: u64,
        have: &mut u64,
        sink: &mut impl FnMut(u64, &[u8]) -> Result<(), ImageError>,
    ) -> Result<(), Failure> {
        let response = self.get(url, "*/*", *have).await?;
        if response.status() != StatusCode::PARTIAL_CONTENT {
            *have = 0;
        }
        let mut body = response.into_body();
        loop {
            let frame = tokio::time::timeout(CHUNK_TIMEOUT, body.frame()).await;
            let frame = frame.map_err(|_| Failure::Again("no data in time".to_owned()))?;
            let Some(frame) = frame else { break };
            let broken =
                |error| Failure::Again(format!("it broke off after {have} of {size} bytes: {}", causes(&error)));
            let frame = frame.map_err(broken)?;
            let Some(bytes) = frame.data_ref() else { continue };
            if *have + bytes.len() as u64 > size {
                return Err(Failure::Final(
                    self.failed(format!("{url} has more than the {size} bytes that were announced")),
                ));
            }
            sink(*have, bytes).map_err(Failure::Final)?;
            *have += bytes.len() as u64;
        }
        if *have < size {
            return Err(Failure::Again(format!("it ended after {have} of {size} bytes")));
        }
        Ok(())
    }

    async fn retry<T, F: Future<Output = Result<T, Failure>>>(&self, work: impl Fn() -> F) -> Result<T, ImageError> {
        let mut attempt = 0;
        loop {
            match work().await {
                Ok(it) => return Ok(it),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again(reason)) => {
                    attempt += 1;
                    if attempt >= ATTEMPTS_MAX {
                        return Err(self.failed(format!("failed to do request: {reason}")));
                    }
                    pause(attempt).await;
                }
            }
        }
    }

    async fn get(&self, url: &str, accept: &str, from: u64) -> Result<Response<Incoming>, Failure> {
        let mut asked = false;
        loop {
            let authorization = self.authorization.lock().await.clone();
            let response = self.follow(url, accept, from, authorization).await?;
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            // Once: a registry that refuses the token it sent for means that the user may not have this.
            if status == StatusCode::UNAUTHORIZED && !asked && self.authenticate(&response).await? {
                asked = true;
                continue;
            }
            return Err(self.refusal(url, response).await);
        }
    }

    async fn follow(
        &self,
        url: &str,
        accept: &str,
        from: u64,
        authorization: Option<String>,
    ) -> Result<Response<Incoming>, Failure> {
        let mut uri: Uri = url.parse().map_err(|_| Failure::Final(self.failed(format!("{url} is no address"))))?;
        let first_host = uri.authority().cloned();
        for _ in 0..=REDIRECTS_MAX {
            let path = uri.path_and_query().map_or("/", |it| it.as_str()).to_owned();
            let mut request = Request::get(path).header(header::ACCEPT, accept);
            if from > 0 {
                request = request.header(header::RANGE, format!("bytes={from}-"));
            }
            // What is meant for the registry is not told to the storage that it redirects to.
            if let Some(authorization) = authorization.as_ref().filter(|_| uri.authority() == first_host.as_ref()) {
                request = request.header(header::AUTHORIZATION, authorization);
            }
            let request = request.body(Empty::new()).map_err(|error| Failure::Final(self.failed(error.to_string())))?;
            let response = transport::send(&uri, request).await.map_err(|error| self.unreachable(&uri, error))?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let to = response.headers().get(header::LOCATION).and_then(|it| it.to_str().ok());
            let to: Option<Uri> = to.and_then(|it| it.parse().ok());
            let Some(to) = to else { return Err(Failure::Final(self.failed(format!("{uri} redirects nowhere")))) };
            let downgrade = uri.scheme_str() == Some("https") && to.scheme_str() == Some("http");
            if downgrade {
                return Err(Failure::Final(self.failed(format!("{uri} redirects to plain http"))));
            }
            let mut parts = to.into_parts();
            parts.scheme = parts.scheme.or_else(|| uri.scheme().cloned());
            parts.authority = parts.authority.or_else(|| uri.authority().cloned());
            uri = Uri::from_parts(parts).map_err(|error| Failure::Final(self.failed(error.to_string())))?;
        }
        Err(Failure::Final(self.failed(format!("{url} redirects too often"))))
    }

    fn unreachable(&self, uri: &Uri, error: io::Error) -> Failure {
        let reason = format!("Get \"{uri}\": {error}");
        match error.kind() {
            // Waiting changes nothing about these.
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound | io::ErrorKind::InvalidInput => {
                Failure::Final(self.failed(format!("failed to do request: {reason}")))
            }
            io::ErrorKind::InvalidData => {
                Failure::Final(self.failed(format!("failed to verify certificate: {reason}")))
            }
            _ => Failure::Again(reason),
        }
    }

    async fn refusal(&self, url: &str, response: Response<Incoming>) -> Failure {
        let status = response.status();
        let body = http_body_util::Limited::new(response.into_body(), 64 << 10);
        let body = tokio::time::timeout(Duration::from_secs(10), body.collect()).await;
        let body = body.ok().and_then(Result::ok).map(|it| it.to_bytes()).unwrap_or_default();
        let words = Words::read(&body).unwrap_or_else(|| status.to_string());
        let reference = self.reference.to_string();
        match status {
            StatusCode::NOT_FOUND => Failure::Final(ImageError::NotFound { reference }),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Failure::Final(ImageError::Denied { reference, reason: words })
            }
            _ if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() => {
                Failure::Again(format!("unexpected status from GET request to {url}: {status}: {words}"))
            }
            _ => Failure::Final(self.failed(format!("unexpected status from GET request to {url}: {status}: {words}"))),
        }
    }

    /// Does what the registry asks for. False if it asks for nothing that we have.
    async fn authenticate(&self, response: &Response<Incoming>) -> Result<bool, Failure> {
        let challenges = response.headers().get_all(header::WWW_AUTHENTICATE);
        let mut authorization = self.authorization.lock().await;
        for challenge in challenges.iter().filter_map(|it| it.to_str().ok()) {
            let (scheme, rest) = challenge.split_once(' ').unwrap_or((challenge, ""));
            if scheme.eq_ignore_ascii_case("basic") && authorization.is_none() {
                if let Some(basic) = self.basic() {
                    *authorization = Some(basic);
                    return Ok(true);
                }
            } else if scheme.eq_ignore_ascii_case("bearer") {
                let token = self.token(rest).await?;
                *authorization = Some(format!("Bearer {token}"));
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn basic(&self) -> Option<String> {
        let Credentials { username, password } = self.credentials.as_ref()?;
        let pair = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
        Some(format!("Basic {pair}"))
    }

    async fn token(&self, challenge: &str) -> Result<String, Failure> {
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let parameters = parameters(challenge);
        let find = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        let realm =
            find("realm").ok_or_else(|| Failure::Final(self.failed("the registry's challenge has no realm")))?;
        if !realm.starts_with("https://") && !self.base.starts_with("http://") {
            return Err(Failure::Final(
                self.failed(format!("the registry wants a token from {realm}, which is not https")),
            ));
        }
        let scope = find("scope").unwrap_or_else(|| format!("repository:{}:pull", self.reference.repository));
        let mut url = format!("{realm}{}scope={}", if realm.contains('?') { '&' } else { '?' }, encode(&scope));
        if let Some(service) = find("service") {
            url.push_str(&format!("&service={}", encode(&service)));
        }
        let response = self.follow(&url, "application/json", 0, self.basic()).await?;
        if !response.status().is_success() {
            return Err(self.refusal(&url, response).await);
        }
        let body = http_body_util::Limited::new(response.into_body(), 1 << 20);
        let body = body.collect().await.map_err(|error| Failure::Again(error.to_string()))?.to_bytes();
        let token: Token = serde_json::from_slice(&body).map_err(|error| {
            Failure::Final(self.failed(format!("the token server's answer cannot be read: {error}")))
        })?;
        token.token.or(token.access_token).ok_or_else(|| Failure::Final(self.failed("the token server gave no token")))
    }
}

/// An error with what caused it: hyper's own words say only where it happened.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

async fn pause(attempt: u32) {
    tokio::time::sleep(Duration::from_millis(250) * 2u32.pow(attempt.min(6))).await;
}

/// A registry's error document.
#[derive(Deserialize)]
struct Words {
    errors: Vec<Word>,
}

#[derive(Deserialize)]
struct Word {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Words {
    fn read(body: &[u8]) -> Option<String> {
        let words: Words = serde_json::from_slice(body).ok()?;
        let word = words.errors.first()?;
        Some(format!("{}: {}", word.code.to_lowercase(), word.message))
    }
}

/// `key="value",key="value"`; a value may contain commas.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_matches([' ', ',']).to_ascii_lowercase();
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        found.push((key, value.to_owned()));
        rest = next;
    }
    found
}

fn encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~:/,".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let text =
            r#"realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        let found = parameters(text);
        assert_eq!(found.len(), 3);
        assert_eq!(found.first().map(|(_, value)| value.as_str()), Some("https://auth.docker.io/token"));
        assert_eq!(found.get(2).map(|(_, value)| value.as_str()), Some("repository:a/b:pull,push"));
        assert!(parameters("").is_empty());
        assert_eq!(encode("a b&c"), "a%20b%26c");
    }
}
