//! HTTP/1.1 over TCP or TLS.

use std::{
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Uri, header};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;

const HEADERS_TIMEOUT: Duration = Duration::from_secs(60);

/// Sends one request on a connection of its own; the answer's body keeps the connection.
pub(crate) async fn send(uri: &Uri, mut request: Request<Empty<Bytes>>) -> io::Result<Response<Incoming>> {
    let authority = uri.authority().ok_or_else(|| invalid("the address has no host"))?;
    let secure = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(invalid("only http and https are understood")),
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let stream = dial::connect(host, port).await?;
    let host_header = authority.as_str().rsplit('@').next().unwrap_or_default();
    request.headers_mut().insert(header::HOST, host_header.parse().map_err(|_| invalid("the host name is not valid"))?);
    let agent = concat!("klynge/", env!("CARGO_PKG_VERSION"));
    request.headers_mut().insert(header::USER_AGENT, header::HeaderValue::from_static(agent));
    let exchange = async {
        if secure {
            let name = ServerName::try_from(host.to_owned()).map_err(|_| invalid("the host name is not valid"))?;
            let stream = tokio_rustls::TlsConnector::from(tls()?).connect(name, stream).await?;
            exchange(TokioIo::new(stream), request).await
        } else {
            exchange(TokioIo::new(stream), request).await
        }
    };
    tokio::time::timeout(HEADERS_TIMEOUT, exchange).await.map_err(|_| timed_out(host, "no answer"))?
}

async fn exchange<T>(stream: T, request: Request<Empty<Bytes>>) -> io::Result<Response<Incoming>>
where
    T: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(io::Error::other)?;
    // It ends by itself when the body has been read or dropped.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(io::Error::other)
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason.to_owned())
}

fn timed_out(host: &str, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("{host}: {what} in time"))
}

/// The host's trusted roots, read once.
fn tls() -> io::Result<Arc<rustls::ClientConfig>> {
    static CONFIG: OnceLock<Arc<rustls::ClientConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(config.clone());
    }
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(io::Error::other(
            "this machine has no trusted root certificates; install the package ca-certificates",
        ));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(CONFIG.get_or_init(|| Arc::new(config)).clone())
}
