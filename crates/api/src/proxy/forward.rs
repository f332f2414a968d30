//! Passing a request on byte for byte, upgrades included.

use super::application::secure;
use super::targets::{Place, Target, resolve};
use super::{Connection, NodeConnector as _};
use crate::core::Scope;
use crate::serve::{Answer, Context, respond};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use kinds::Role;
use object::Status;
use std::time::Duration;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;

/// A node or a pod that does not take the connection in this time counts as unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A browser's token among the WebSocket protocols; it must not reach the other side.
const BEARER_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// Answers a request for a proxied subresource.
pub(crate) async fn handle(
    context: &Context,
    scope: &Scope<'_>,
    role: &Role,
    request: Request<()>,
    body: &mut Option<Incoming>,
) -> Result<Response<Answer>, Status> {
    let Some(target) = resolve(context, scope, role)? else {
        let mut response = Response::new(Answer::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        return Ok(response);
    };
    if let Some(redirect) = target.application.as_ref().and_then(|application| application.redirect(context, &request))
    {
        return Ok(redirect);
    }
    let connection = connect(context, &target).await?;
    let body = body.take().ok_or_else(|| Status::internal("the body of the request is gone"))?;
    forward(connection, &target, request.map(|()| body)).await
}

async fn connect(context: &Context, target: &Target) -> Result<Box<dyn Connection>, Status> {
    let connecting = async {
        match &target.place {
            Place::Node(node) if context.core.tunnels.holds(node) => context.core.tunnels.connect(node).await,
            Place::Node(node) => context.core.connector.connect(node).await,
            Place::Address(address, port) => {
                let stream = TcpStream::connect((*address, *port)).await?;
                stream.set_nodelay(true)?;
                let stream = Box::new(stream) as Box<dyn Connection>;
                let is_tls = target.application.as_ref().is_some_and(|application| application.is_tls);
                if is_tls { secure(stream, *address).await } else { Ok(stream) }
            }
        }
    };
    match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(Status::unavailable(format!("error trying to reach service: {error}"))),
        Err(_) => Err(Status::unavailable("error trying to reach service: connecting took too long")),
    }
}

async fn forward(
    connection: Box<dyn Connection>,
    target: &Target,
    mut request: Request<Incoming>,
) -> Result<Response<Answer>, Status> {
    let failed = |error: hyper::Error| Status::unavailable(format!("error trying to reach service: {error}"));
    let upgrade = request.headers().contains_key(header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
    let own_host = own_host(&request);
    *request.uri_mut() = target.path.parse::<Uri>().map_err(|error| Status::bad_request(error.to_string()))?;
    *request.version_mut() = http::Version::HTTP_11;
    clean(request.headers_mut(), upgrade.is_some());
    if let Some(application) = &target.application {
        application.prepare(&mut request);
    }
    let host = match &target.place {
        Place::Node(node) => node.clone(),
        Place::Address(address, port) => format!("{address}:{port}"),
    };
    if let Ok(host) = HeaderValue::from_str(&host) {
        request.headers_mut().insert(header::HOST, host);
    }
    let (mut sender, connection) = http1::handshake(TokioIo::new(connection)).await.map_err(failed)?;
    tokio::spawn(async move {
        // Ends with the answer's body or with the upgraded stream; its error shows there.
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a proxied connection ended");
        }
    });
    let mut response = sender.send_request(request).await.map_err(failed)?;
    match upgrade {
        Some(upgrade) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            let other = hyper::upgrade::on(&mut response);
            tokio::spawn(join(upgrade, other));
            let (parts, _) = response.into_parts();
            Ok(Response::from_parts(parts, Answer::empty()))
        }
        _ => {
            clean(response.headers_mut(), false);
            if let Some(application) = &target.application {
                return Ok(application.answer(response, own_host.into_iter().chain([host]).collect()));
            }
            let (parts, body) = response.into_parts();
            if parts.status.is_server_error() && parts.headers.get(header::CONTENT_TYPE).is_none() {
                return Ok(respond::answer(parts.status.as_u16(), "text/plain; charset=utf-8", Answer::Passed(body)));
            }
            Ok(Response::from_parts(parts, Answer::Passed(body)))
        }
    }
}

/// What the caller calls this server.
fn own_host(request: &Request<Incoming>) -> Option<String> {
    let host = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
    host.or_else(|| request.uri().authority().map(http::uri::Authority::as_str)).map(str::to_owned)
}

/// Copies both ways until one side ends.
async fn join(client: hyper::upgrade::OnUpgrade, other: hyper::upgrade::OnUpgrade) {
    let (client, other) = match tokio::try_join!(client, other) {
        Ok(both) => both,
        Err(error) => {
            tracing::debug!(%error, "an upgrade did not happen");
            return;
        }
    };
    let (mut client, mut other) = (TokioIo::new(client), TokioIo::new(other));
    if let Err(error) = copy_bidirectional(&mut client, &mut other).await {
        tracing::debug!(%error, "an upgraded stream ended");
    }
}

/// Drops what is meant for one hop only, and the caller's credentials.
fn clean(headers: &mut HeaderMap, upgrade: bool) {
    let mut drop: Vec<HeaderName> = vec![
        header::AUTHORIZATION,
        header::PROXY_AUTHORIZATION,
        header::PROXY_AUTHENTICATE,
        header::TE,
        header::TRAILER,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ];
    if !upgrade {
        drop.extend([header::CONNECTION, header::UPGRADE, header::TRANSFER_ENCODING]);
    }
    let impersonation = headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned();
    drop.extend(impersonation.collect::<Vec<_>>());
    for name in drop {
        headers.remove(name);
    }
    let protocols: Vec<HeaderValue> = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().cloned().collect();
    if protocols.iter().any(|value| value.to_str().is_ok_and(|text| text.contains(BEARER_PROTOCOL))) {
        headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
        let kept: Vec<&str> = protocols
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|text| text.split(','))
            .map(str::trim)
            .filter(|one| !one.starts_with(BEARER_PROTOCOL))
            .collect();
        if let Ok(value) = HeaderValue::from_str(&kept.join(", ")) {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value);
        }
    }
}
