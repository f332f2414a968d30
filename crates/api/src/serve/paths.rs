//! Paths that are no resources: health, version, metrics, discovery, OpenAPI, token keys.

use super::body::Answer;
use super::dispatch::Context;
use super::{discovery, openapi, respond};
use http::{Method, Response};
use object::{Status, Value, json};
use std::sync::atomic::Ordering;

/// The release of Kubernetes whose API this is.
pub(crate) const VERSION: &str = "v1.37.0";

fn json_answer(value: &Value) -> Response<Answer> {
    respond::answer(200, "application/json", Answer::bytes(json::encode(value)))
}

/// Answers a path.
pub(crate) async fn handle(context: &Context) -> Result<Response<Answer>, Status> {
    let path = context.info.path.as_str();
    if !matches!(context.method, Method::GET | Method::HEAD) {
        return Err(Status::method_not_allowed());
    }
    let trimmed = path.trim_end_matches('/');
    match trimmed {
        "/version" => Ok(json_answer(&version())),
        "/metrics" => Ok(respond::answer(
            200,
            "text/plain; version=0.0.4; charset=utf-8",
            Answer::bytes(context.core.metrics.render(context.core.store.as_ref())),
        )),
        "/.well-known/openid-configuration" => {
            let keys = format!("https://{}/openid/v1/jwks", authority(context));
            Ok(json_answer(&context.core.tokens.openid_configuration(&keys)))
        }
        "/openid/v1/jwks" => {
            let bytes = json::encode(&context.core.tokens.key_set());
            Ok(respond::answer(200, "application/jwk-set+json", Answer::bytes(bytes)))
        }
        "" => Ok(json_answer(&root(context))),
        _ if is_health(trimmed) => health(context, trimmed),
        "/openapi/v2" => openapi::v2(context).await,
        _ if trimmed.starts_with("/openapi/v3") => openapi::v3(context, trimmed).await,
        _ if trimmed.starts_with("/api") => discovery::handle(context, trimmed),
        _ => Err(Status::no_such_path()),
    }
}

fn authority(context: &Context) -> String {
    let advertise = context.core.advertise;
    let port = context.core.port;
    if advertise.is_ipv6() { format!("[{advertise}]:{port}") } else { format!("{advertise}:{port}") }
}

fn is_health(path: &str) -> bool {
    ["/healthz", "/livez", "/readyz"]
        .iter()
        .any(|one| path.strip_prefix(one).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// The checks behind a health path, each with what is wrong.
fn checks(context: &Context, readiness: bool) -> Vec<(&'static str, Option<String>)> {
    let core = &context.core;
    let stopped = core.store.status().stopped;
    let mut checks = vec![("ping", None), ("store", stopped)];
    if readiness {
        let bootstrapped = core.ready.load(Ordering::Acquire);
        checks.push(("bootstrap", (!bootstrapped).then(|| "not finished".to_owned())));
        let stopping = *core.stopping.borrow();
        checks.push(("shutdown", stopping.then(|| "process is shutting down".to_owned())));
    }
    checks
}

fn health(context: &Context, path: &str) -> Result<Response<Answer>, Status> {
    let mut parts = path.trim_start_matches('/').splitn(2, '/');
    let name = parts.next().unwrap_or_default();
    let mut all = checks(context, name == "readyz");
    if let Some(one) = parts.next() {
        all.retain(|check| check.0 == one);
        if all.is_empty() {
            return Err(Status::no_such_path());
        }
    }
    let failed = all.iter().any(|check| check.1.is_some());
    if !failed && !context.query.flag("verbose") {
        return Ok(respond::text(200, "ok"));
    }
    let mut lines = String::new();
    for (check, fault) in &all {
        match fault {
            None => lines.push_str(&format!("[+]{check} ok\n")),
            Some(why) => lines.push_str(&format!("[-]{check} failed: {why}\n")),
        }
    }
    let word = if failed { "failed" } else { "passed" };
    lines.push_str(&format!("{name} check {word}\n"));
    Ok(respond::text(if failed { 500 } else { 200 }, lines))
}

fn version() -> Value {
    let mut version = Value::default();
    let members = [
        ("major", "1"),
        ("minor", "37"),
        ("gitVersion", VERSION),
        ("gitCommit", ""),
        ("gitTreeState", "clean"),
        ("buildDate", "1970-01-01T00:00:00Z"),
        ("goVersion", ""),
        ("compiler", "rustc"),
        ("platform", if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" }),
        ("emulationMajor", "1"),
        ("emulationMinor", "37"),
        ("minCompatibilityMajor", "1"),
        ("minCompatibilityMinor", "36"),
    ];
    for (member, text) in members {
        version.set(&[member], text.into());
    }
    version
}

fn root(context: &Context) -> Value {
    let mut paths: Vec<String> =
        ["/.well-known/openid-configuration", "/api", "/api/v1", "/apis"].iter().map(|one| (*one).to_owned()).collect();
    for group in context.core.table().groups().iter().filter(|group| !group.name.is_empty()) {
        paths.push(format!("/apis/{}", group.name));
        paths.extend(group.versions.iter().map(|version| format!("/apis/{}/{version}", group.name)));
    }
    for more in
        ["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/readyz", "/version"]
    {
        paths.push(more.to_owned());
    }
    let mut root = Value::default();
    root.set(&["paths"], paths.into_iter().map(Value::from).collect::<Vec<_>>().into());
    root
}
