//! What the proxy does for applications beside passing bytes on, as upstream's UpgradeAwareHandler and proxy.Transport: a path without its
//! slash is led to the one with it, links in pages and in redirects lead through the proxy, `https:` is spoken without asking for a
//! certificate that anybody vouches for.

use super::Connection;
use super::html_links::{Links, Rewriter};
use crate::serve::{Answer, Context, Peer};
use client::connect_to_anyone;
use futures_util::{StreamExt as _, stream};
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyStream;
use hyper::body::Incoming;
use rustls::pki_types::ServerName;
use std::io;

/// The application behind a proxied path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Application {
    /// The path of the proxy itself, which ends with "/proxy".
    pub(crate) base: String,
    /// Whether it is spoken to over TLS.
    pub(crate) is_tls: bool,
}

impl Application {
    /// The answer to a path without its slash, from which relative links would lead nowhere.
    pub(crate) fn redirect(&self, context: &Context, request: &Request<()>) -> Option<Response<Answer>> {
        let is_asked =
            matches!(*request.method(), Method::GET | Method::HEAD) && !request.headers().contains_key(header::UPGRADE);
        if !is_asked || context.info.path != self.base {
            return None;
        }
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        let location = HeaderValue::from_str(&format!("{}/{query}", self.base)).ok()?;
        let mut response = Response::new(Answer::empty());
        *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
        response.headers_mut().insert(header::LOCATION, location);
        Some(response)
    }

    /// Says to the application where it is asked for; takes encodings away in which its links could not be read.
    pub(crate) fn prepare(&self, request: &mut Request<Incoming>) {
        let uri = HeaderValue::from_str(&format!("{}{}", self.base, request.uri().path()));
        let host = request.headers().get(header::HOST).cloned().or_else(|| {
            let host = request.uri().authority()?;
            HeaderValue::from_str(host.as_str()).ok()
        });
        let peer = request.extensions().get::<Peer>().map(|peer| peer.0.to_canonical().to_string());
        let before = request.headers().get("x-forwarded-for").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let way: Vec<String> = before.into_iter().chain(peer).collect();
        let way = (!way.is_empty()).then(|| HeaderValue::from_str(&way.join(", ")).ok()).flatten();
        let headers = request.headers_mut();
        headers.remove(header::ACCEPT_ENCODING);
        for (name, value) in [("x-forwarded-uri", uri.ok()), ("x-forwarded-host", host), ("x-forwarded-for", way)] {
            if let Some(value) = value {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        headers.insert(HeaderName::from_static("x-forwarded-proto"), HeaderValue::from_static("https"));
    }

    /// The answer with its links led through the proxy. `hosts`: what the application and this server are called.
    pub(crate) fn answer(&self, mut response: Response<Incoming>, hosts: Vec<String>) -> Response<Answer> {
        let links = Links::new(&self.base, hosts);
        let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        if let Some(location) =
            location.and_then(|text| links.rewrite(text)).and_then(|text| HeaderValue::from_str(&text).ok())
        {
            response.headers_mut().insert(header::LOCATION, location);
        }
        let kind =
            response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let is_page = kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/html");
        if !is_page || response.headers().contains_key(header::CONTENT_ENCODING) {
            return response.map(Answer::Passed);
        }
        response.headers_mut().remove(header::CONTENT_LENGTH);
        response.map(|body| Answer::Stream(Box::pin(rewritten(body, links))))
    }
}

fn rewritten(body: Incoming, links: Links) -> impl futures_util::Stream<Item = io::Result<bytes::Bytes>> + Send {
    stream::unfold(Some((BodyStream::new(body), Rewriter::new(links))), |state| async move {
        let (mut body, mut rewriter) = state?;
        match body.next().await {
            Some(Ok(frame)) => {
                let piece = frame.into_data().map(|data| rewriter.push(&data)).unwrap_or_default();
                Some((Ok(piece.into()), Some((body, rewriter))))
            }
            Some(Err(error)) => Some((Err(io::Error::other(error)), None)),
            None => Some((Ok(rewriter.finish().into()), None)),
        }
    })
}

/// Speaks TLS with an application. Nobody vouches for its certificate: it is asked by its address inside the cluster, and upstream asks no more.
pub(crate) async fn secure(
    connection: Box<dyn Connection>,
    address: std::net::IpAddr,
) -> io::Result<Box<dyn Connection>> {
    let stream = connect_to_anyone(connection, ServerName::IpAddress(address.into())).await?;
    Ok(Box::new(stream))
}
