//! Tables of requests and what their answers must hold.

use super::Cluster;
use object::{Value, json};

/// One request and what its answer must hold.
pub struct Step {
    method: &'static str,
    path: &'static str,
    content_type: &'static str,
    body: &'static str,
    code: u16,
    /// Dotted paths (or `raw`, or a header as `header:name`) and the text that must be there; `!path` must be missing.
    expect: &'static [(&'static str, &'static str)],
}

pub const fn step(
    method: &'static str,
    path: &'static str,
    content_type: &'static str,
    body: &'static str,
    code: u16,
    expect: &'static [(&'static str, &'static str)],
) -> Step {
    Step { method, path, content_type, body, code, expect }
}

pub const JSON: &str = "application/json";
pub const MERGE: &str = "application/merge-patch+json";
pub const JSON_PATCH: &str = "application/json-patch+json";
pub const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub const APPLY: &str = "application/apply-patch+yaml";

fn show(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text.to_string()),
        other => Some(String::from_utf8_lossy(&json::encode(other)).into_owned()),
    }
}

/// Sends every request in its turn and compares.
pub async fn run(cluster: &Cluster, steps: &[Step]) {
    for Step { method, path, content_type, body, code, expect } in steps {
        let headers: &[(&str, &str)] = if content_type.is_empty() { &[] } else { &[("content-type", content_type)] };
        let answer = cluster.send(method, path, headers, *body).await;
        let what = format!("{method} {path} {body}: {}", answer.text());
        assert_eq!(answer.code, *code, "{what}");
        let value = answer.json();
        for (field, text) in *expect {
            if let Some(absent) = field.strip_prefix('!') {
                let way: Vec<&str> = absent.split('.').collect();
                assert!(value.at(&way).is_none(), "{absent} is there: {what}");
                continue;
            }
            let way: Vec<&str> = field.split('.').collect();
            let found = if *field == "raw" {
                Some(answer.text())
            } else if let Some(name) = field.strip_prefix("header:") {
                answer.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
            } else {
                show(value.at(&way))
            };
            assert!(found.as_ref().is_some_and(|found| found.contains(text)), "{field} is {found:?}: {what}");
        }
    }
}
