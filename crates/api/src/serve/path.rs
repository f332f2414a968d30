//! What a request's path, method and query ask for, by upstream's rules for verbs, namespaces and subresources.

use crate::serve::query::Parameters;
use http::Method;
use object::percent;

/// A parsed request line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestInfo {
    /// The path as it came.
    pub(crate) path: String,
    /// `get`, `list`, `watch`, `create`, ...; for other paths the method in lower case.
    pub(crate) verb: String,
    /// Whether the path names a resource.
    pub(crate) is_resource: bool,
    /// API group; empty for core.
    pub(crate) group: String,
    /// Version.
    pub(crate) version: String,
    /// Namespace; for namespaces themselves their own name.
    pub(crate) namespace: String,
    /// Plural resource name.
    pub(crate) resource: String,
    /// Subresource, or empty.
    pub(crate) subresource: String,
    /// Object name, or empty.
    pub(crate) name: String,
    /// The field selector of a request about a collection, or empty.
    pub(crate) fields: String,
    /// What follows the subresource: the path behind a proxy.
    pub(crate) rest: String,
}

impl RequestInfo {
    /// Parses a request line. Never fails: what is no resource path is a plain path.
    pub(crate) fn parse(method: &Method, path: &str, query: &Parameters) -> Self {
        let mut info =
            RequestInfo { path: path.to_owned(), verb: method.as_str().to_ascii_lowercase(), ..RequestInfo::default() };
        let trimmed = path.trim_matches('/');
        let parts: Vec<&str> = trimmed.split('/').collect();
        let rest = match parts.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => {
                info.version = (*version).to_owned();
                rest
            }
            ["apis", group, version, rest @ ..] if !rest.is_empty() => {
                info.group = (*group).to_owned();
                info.version = (*version).to_owned();
                rest
            }
            _ => return info,
        };
        info.is_resource = true;
        info.verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        }
        .to_owned();
        info.take_parts(rest, trimmed);
        info.refine_verb(query);
        info
    }

    fn take_parts(&mut self, parts: &[&str], trimmed: &str) {
        let mut parts = parts;
        if let ["watch", rest @ ..] = parts
            && !rest.is_empty()
        {
            self.verb = "watch".to_owned();
            parts = rest;
        }
        if let ["namespaces", namespace, rest @ ..] = parts {
            self.namespace = percent::decode(namespace);
            // /namespaces/x/status and /finalize are about the namespace; anything longer is about what is in it.
            if let [first, ..] = rest
                && !matches!(*first, "status" | "finalize")
            {
                parts = rest;
            }
        }
        let mut rest = parts.iter();
        self.resource = rest.next().map(|part| percent::decode(part)).unwrap_or_default();
        self.name = rest.next().map(|part| percent::decode(part)).unwrap_or_default();
        self.subresource = rest.next().map(|part| percent::decode(part)).unwrap_or_default();
        // The rest is passed on behind a proxy and keeps its escapes.
        let taken: usize = rest.clone().map(|part| part.len() + 1).sum();
        if taken > 0 {
            self.rest = trimmed[trimmed.len() + 1 - taken..].to_owned();
        }
    }

    fn refine_verb(&mut self, query: &Parameters) {
        if !self.name.is_empty() {
            return;
        }
        match self.verb.as_str() {
            "get" | "watch" => {
                let watches = self.verb == "watch" || query.flag("watch");
                self.verb = if watches { "watch" } else { "list" }.to_owned();
                query.get("fieldSelector").unwrap_or_default().clone_into(&mut self.fields);
                self.name = named_by(&self.fields).unwrap_or_default().to_owned();
            }
            "delete" => {
                self.verb = "deletecollection".to_owned();
                query.get("fieldSelector").unwrap_or_default().clone_into(&mut self.fields);
            }
            _ => {}
        }
    }
}

/// The name in a field selector that asks for one: upstream authorises such a list as if the path named it.
pub(crate) fn named_by(fields: &str) -> Option<&str> {
    fields.split(',').find_map(|one| one.strip_prefix("metadata.name=")).map(|name| name.trim_start_matches('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// method path?query -> verb group/version namespace resource name subresource rest
    const CASES: &[(&str, &str, &str)] = &[
        ("GET", "/api/v1/pods", "list /v1  pods   "),
        ("GET", "/api/v1/namespaces/a/pods?watch=true", "watch /v1 a pods   "),
        ("GET", "/api/v1/namespaces/a/pods/x", "get /v1 a pods x  "),
        ("GET", "/api/v1/watch/namespaces/a/pods", "watch /v1 a pods   "),
        ("POST", "/apis/apps/v1/namespaces/a/deployments", "create apps/v1 a deployments   "),
        ("PUT", "/apis/apps/v1/namespaces/a/deployments/x/scale", "update apps/v1 a deployments x scale "),
        ("PUT", "/api/v1/namespaces/a/finalize", "update /v1 a namespaces a finalize "),
        ("GET", "/api/v1/namespaces/a", "get /v1 a namespaces a  "),
        ("GET", "/api/v1/namespaces", "list /v1  namespaces   "),
        ("DELETE", "/api/v1/namespaces/a/pods", "deletecollection /v1 a pods   "),
        ("GET", "/api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Dx", "list /v1 a pods x  "),
        ("GET", "/api/v1/namespaces/a/services/http:x:80/proxy/a%20b/c/", "get /v1 a services http:x:80 proxy a%20b/c"),
        ("GET", "/apis/apps/v1", "get /     "),
        ("GET", "/healthz", "get /     "),
    ];

    #[test]
    fn parses_upstreams_paths() {
        for (method, uri, expected) in CASES {
            let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
            let method = Method::from_bytes(method.as_bytes()).unwrap_or_default();
            let info = RequestInfo::parse(&method, path, &Parameters::parse(query));
            let RequestInfo { verb, group, version, namespace, resource, name, subresource, rest, .. } = info;
            let got = format!("{verb} {group}/{version} {namespace} {resource} {name} {subresource} {rest}");
            assert_eq!(got, *expected, "{uri}");
        }
    }
}
