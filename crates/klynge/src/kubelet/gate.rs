//! Who calls and whether it may: client certificates of the cluster's authority, tokens by TokenReview, rights by SubjectAccessReview.

use client::{ClusterClient, Request, Target, Verb, WriteOptions};
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use node::streaming::Gate;
use object::{GroupVersionResource, Map, Value, json};
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Upstream's defaults for how long verdicts are believed.
const TOKEN_HOLDS: Duration = Duration::from_secs(120);
const ALLOWED_HOLDS: Duration = Duration::from_secs(300);
const DENIED_HOLDS: Duration = Duration::from_secs(30);
/// Verdicts of each sort that are remembered; past it all are forgotten.
const VERDICTS_MAX: usize = 1_000;
/// Longer tokens are none.
const TOKEN_BYTES_MAX: usize = 64 * 1024;
/// How long the API may take to answer a review.
const REVIEW_WITHIN: Duration = Duration::from_secs(10);

/// A caller who proved an identity.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Caller {
    pub(super) name: String,
    pub(super) groups: Vec<String>,
    /// uid and extra of a TokenReview's user, as they came.
    pub(super) uid: Value,
    pub(super) extra: Value,
}

/// Answers that hold for a while.
struct Verdicts<K, V>(Mutex<HashMap<K, (Instant, V)>>);

impl<K: Eq + Hash, V: Clone> Verdicts<K, V> {
    fn new() -> Self {
        Verdicts(Mutex::default())
    }

    fn get(&self, key: &K) -> Option<V> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(key).filter(|(until, _)| *until > Instant::now()).map(|(_, value)| value.clone())
    }

    fn put(&self, key: K, value: V, holds: Duration) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= VERDICTS_MAX {
            known.clear();
        }
        known.insert(key, (Instant::now() + holds, value));
    }
}

/// Name, groups, verb, subresource.
type Question = (String, Vec<String>, String, &'static str);

/// Asks the API, and remembers its answers; one for the whole node.
pub(super) struct Reviews {
    client: Arc<dyn ClusterClient>,
    node: String,
    tokens: Verdicts<String, Option<Caller>>,
    rights: Verdicts<Question, bool>,
}

impl Reviews {
    pub(super) fn new(client: Arc<dyn ClusterClient>, node: &str) -> Self {
        Reviews { client, node: node.to_owned(), tokens: Verdicts::new(), rights: Verdicts::new() }
    }

    async fn review(&self, group: &str, plural: &str, spec: Map) -> Result<Value, String> {
        let mut object = Value::default();
        object.set(&["spec"], Value::Object(spec));
        let target = Target {
            resource: GroupVersionResource::new(group, "v1", plural),
            namespace: "".into(),
            name: "".into(),
            subresource: "".into(),
        };
        let request = Request { target, verb: Verb::Create(object, WriteOptions::default()) };
        let asked = tokio::time::timeout(REVIEW_WITHIN, self.client.call(request)).await;
        let answer = asked.map_err(|_| "the API does not answer".to_owned())?.map_err(|status| status.message)?;
        Ok(json::decode(&answer.json, &json::Limits::default()).map_err(|error| error.to_string())?.value)
    }

    async fn token(&self, token: &str) -> Result<Option<Caller>, String> {
        if token.len() > TOKEN_BYTES_MAX {
            return Ok(None);
        }
        if let Some(known) = self.tokens.get(&token.to_owned()) {
            return Ok(known);
        }
        let spec: Map = [("token", Value::from(token))].into_iter().collect();
        let answer = self.review("authentication.k8s.io", "tokenreviews", spec).await?;
        let holds = answer.at(&["status", "authenticated"]).and_then(Value::as_bool) == Some(true);
        let user = |member| answer.at(&["status", "user", member]).cloned().unwrap_or_default();
        let caller = holds.then(|| Caller {
            name: user("username").as_str().unwrap_or_default().to_owned(),
            groups: user("groups")
                .as_array()
                .unwrap_or_default()
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            uid: user("uid"),
            extra: user("extra"),
        });
        self.tokens.put(token.to_owned(), caller.clone(), TOKEN_HOLDS);
        Ok(caller)
    }

    async fn may(&self, caller: &Caller, verb: &str, subresource: &'static str) -> Result<bool, String> {
        let question = (caller.name.clone(), caller.groups.clone(), verb.to_owned(), subresource);
        if let Some(known) = self.rights.get(&question) {
            return Ok(known);
        }
        let mut attributes = Map::new();
        let members = [
            ("verb", verb),
            ("version", "v1"),
            ("resource", "nodes"),
            ("subresource", subresource),
            ("name", &self.node),
        ];
        for (member, text) in members {
            attributes.insert(member, text);
        }
        let groups = caller.groups.iter().map(|group| Value::from(group.as_str())).collect::<Vec<_>>();
        let mut spec: Map = [
            ("user", Value::from(caller.name.as_str())),
            ("groups", Value::Array(groups)),
            ("resourceAttributes", Value::Object(attributes)),
        ]
        .into_iter()
        .collect();
        for (member, value) in [("uid", &caller.uid), ("extra", &caller.extra)] {
            if !value.is_null() {
                spec.insert(member, value.clone());
            }
        }
        let answer = self.review("authorization.k8s.io", "subjectaccessreviews", spec).await?;
        let allowed = answer.at(&["status", "allowed"]).and_then(Value::as_bool) == Some(true);
        self.rights.put(question, allowed, if allowed { ALLOWED_HOLDS } else { DENIED_HOLDS });
        Ok(allowed)
    }
}

/// The gate of one connection.
pub(super) struct ConnectionGate {
    pub(super) reviews: Arc<Reviews>,
    /// Of the client's certificate, where it gave one that holds.
    pub(super) caller: Option<Caller>,
}

#[async_trait::async_trait]
impl Gate for ConnectionGate {
    async fn admit(&self, head: &Parts) -> Result<(), (StatusCode, String)> {
        let failed = |why: String| (StatusCode::INTERNAL_SERVER_ERROR, why);
        let caller = match (&self.caller, bearer(&head.headers)) {
            (Some(caller), _) => Some(caller.clone()),
            (None, Some(token)) => {
                let asked = self.reviews.token(token).await;
                asked.map_err(|why| failed(format!("Authentication error ({why})")))?
            }
            (None, None) => None,
        };
        let Some(caller) = caller else { return Err((StatusCode::UNAUTHORIZED, "Unauthorized".to_owned())) };
        let (verb, subresources) = wanted(&head.method, head.uri.path());
        for subresource in &subresources {
            let allowed = self.reviews.may(&caller, verb, subresource).await.map_err(|why| {
                let name = &caller.name;
                failed(format!(
                    "Authorization error (user={name}, verb={verb}, resource=nodes, subresource={subresource}): {why}"
                ))
            })?;
            if allowed {
                return Ok(());
            }
        }
        let why = format!(
            "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])",
            caller.name,
            subresources.join(" ")
        );
        Err((StatusCode::FORBIDDEN, why))
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

/// The verb, and the subresources of `nodes` of which one is needed. Any path that is not known here needs the widest right.
fn wanted(method: &Method, path: &str) -> (&'static str, Vec<&'static str>) {
    let verb = match *method {
        Method::POST => "create",
        Method::GET => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    };
    let first = path.strip_prefix('/').unwrap_or_default().split('/').next().unwrap_or_default();
    let subresources = match first {
        "stats" => vec!["stats"],
        "metrics" => vec!["metrics"],
        "logs" => vec!["log"],
        "checkpoint" => vec!["checkpoint"],
        "pods" | "runningpods" => vec!["pods", "proxy"],
        "healthz" => vec!["healthz", "proxy"],
        "configz" => vec!["configz", "proxy"],
        _ => vec!["proxy"],
    };
    (verb, subresources)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_need_rights_as_upstream() {
        for (method, path, verb, subresources) in [
            (Method::GET, "/metrics/resource", "get", "metrics"),
            (Method::GET, "/stats/summary", "get", "stats"),
            (Method::GET, "/pods", "get", "pods proxy"),
            (Method::GET, "/runningpods/", "get", "pods proxy"),
            (Method::GET, "/healthz", "get", "healthz proxy"),
            (Method::GET, "/containerLogs/a/b/c", "get", "proxy"),
            (Method::POST, "/exec/a/b/c", "create", "proxy"),
            (Method::POST, "/run/a/b/c", "create", "proxy"),
            (Method::GET, "/metricsx", "get", "proxy"),
            (Method::GET, "/%6detrics", "get", "proxy"),
            (Method::GET, "//metrics", "get", "proxy"),
            (Method::GET, "/", "get", "proxy"),
            (Method::OPTIONS, "/exec/a/b/c", "", "proxy"),
        ] {
            let found = wanted(&method, path);
            assert_eq!((found.0, found.1.join(" ").as_str()), (verb, subresources), "{method} {path}");
        }
    }
}
