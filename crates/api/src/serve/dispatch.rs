//! One request from its head to its answer: limits, who, whether, where to.

use super::body::{self, Answer};
use super::path::RequestInfo;
use super::query::Parameters;
use super::respond;
use super::{paths, resources};
use crate::auth::{Attributes, User};
use crate::core::Core;
use crate::heartbeat;
use crate::proxy::tunnel;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, EXPECT, HeaderMap, HeaderName, USER_AGENT};
use http::{Method, Request, Response};
use hyper::body::{Body, Incoming};
use object::Status;
use rustls::pki_types::CertificateDer;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// Upstream's limit for requests that are no watches and streams.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A request whose head has been read and whose caller is known.
pub(crate) struct Context {
    pub(crate) core: Arc<Core>,
    pub(crate) user: User,
    /// The connection's.
    pub(crate) certificates: Arc<Vec<CertificateDer<'static>>>,
    pub(crate) info: RequestInfo,
    pub(crate) query: Parameters,
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
}

impl Context {
    /// A header as text; empty where it is missing or no text.
    pub(crate) fn header(&self, name: HeaderName) -> &str {
        text(&self.headers, name)
    }

    pub(crate) fn accept(&self) -> &str {
        self.header(ACCEPT)
    }

    pub(crate) fn content_type(&self) -> &str {
        self.header(CONTENT_TYPE)
    }

    pub(crate) fn user_agent(&self) -> &str {
        self.header(USER_AGENT)
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Counts down when the request is over.
struct InFlight<'a>(&'a AtomicI64);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Requests that last as long as the client wants.
fn is_long_running(info: &RequestInfo) -> bool {
    info.verb == "watch" || matches!(info.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy")
}

/// Answers a request. Never fails: errors are answers.
pub(crate) async fn handle(
    core: Arc<Core>,
    certificates: Arc<Vec<CertificateDer<'static>>>,
    request: Request<Incoming>,
    in_flight_max: i64,
) -> Response<Answer> {
    let begun = Instant::now();
    let query = Parameters::parse(request.uri().query().unwrap_or_default());
    let info = RequestInfo::parse(request.method(), request.uri().path(), &query);
    let verb = info.verb.clone();
    // Whoever waits for a go-ahead sends no body to a refusal; asking for it would make it come.
    let waits = text(request.headers(), EXPECT).eq_ignore_ascii_case("100-continue");
    let (head, body) = request.into_parts();
    let (request, mut unread) = (Request::from_parts(head, ()), Some(body));
    let long = is_long_running(&info);
    let encodings = text(request.headers(), ACCEPT_ENCODING).to_owned();
    let metrics_core = Arc::clone(&core);
    let response = if long {
        answer(core, certificates, request, &mut unread, info, query).await
    } else {
        let count = metrics_core.metrics.in_flight.fetch_add(1, Ordering::Relaxed);
        let _guard = InFlight(&metrics_core.metrics.in_flight);
        if count >= in_flight_max {
            metrics_core.metrics.rejected.fetch_add(1, Ordering::Relaxed);
            respond::failure(&Status::too_many_requests("Too many requests, please try again later.", 1))
        } else {
            let answering = answer(core, certificates, request, &mut unread, info, query);
            match tokio::time::timeout(REQUEST_TIMEOUT, answering).await {
                Ok(response) => response,
                Err(_) => {
                    let message = "Timeout: request did not complete within the allotted timeout";
                    respond::failure(&Status::new(504, "Timeout", message))
                }
            }
        }
    };
    if let Some(body) = unread.filter(|body| !waits && !body.is_end_stream()) {
        body::drain(body).await;
    }
    let response = if long { response } else { respond::compress(response, &encodings).await };
    metrics_core.metrics.observe(&verb, response.status().as_u16(), begun.elapsed());
    response
}

async fn answer(
    core: Arc<Core>,
    certificates: Arc<Vec<CertificateDer<'static>>>,
    request: Request<()>,
    body: &mut Option<Incoming>,
    info: RequestInfo,
    query: Parameters,
) -> Response<Answer> {
    let user = match core.authenticator.authenticate(&certificates, request.headers()) {
        Ok(user) => user,
        Err(status) => return respond::failure(&status),
    };
    if let Err(status) = core.authorize(&attributes(&user, &info)) {
        return respond::failure(&status);
    }
    let (method, headers) = (request.method().clone(), request.headers().clone());
    let context = Context { core, user, certificates, info, query, method, headers };
    let outcome = if context.info.is_resource {
        resources::handle(context, request, body).await
    } else if context.info.path == tunnel::PATH {
        tunnel::accept(&context, request)
    } else if context.info.path == heartbeat::PATH {
        heartbeat::accept(&context, request)
    } else {
        paths::handle(&context).await
    };
    outcome.unwrap_or_else(|status| respond::failure(&status))
}

/// What authorisation is asked.
pub(crate) fn attributes<'a>(user: &'a User, info: &'a RequestInfo) -> Attributes<'a> {
    Attributes {
        user,
        verb: &info.verb,
        group: &info.group,
        version: &info.version,
        resource: &info.resource,
        subresource: &info.subresource,
        namespace: &info.namespace,
        name: &info.name,
        fields: &info.fields,
        path: &info.path,
        is_resource: info.is_resource,
    }
}
