//! What one HTTP method on one path does, before it is written in a dialect.

use super::definitions::{DELETE_OPTIONS, PATCH, STATUS};
use object::GroupVersionKind;

/// The type of a query parameter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Text,
    Number,
    Flag,
}

/// A query parameter.
pub(super) type Parameter = (&'static str, Kind);

pub(super) const PRETTY: Parameter = ("pretty", Kind::Text);
const DRY_RUN: Parameter = ("dryRun", Kind::Text);
const FIELD_MANAGER: Parameter = ("fieldManager", Kind::Text);
/// kubectl looks for this one on the patch operation before it trusts the server to validate.
const FIELD_VALIDATION: Parameter = ("fieldValidation", Kind::Text);
const LIST: [Parameter; 10] = [
    ("allowWatchBookmarks", Kind::Flag),
    ("continue", Kind::Text),
    ("fieldSelector", Kind::Text),
    ("labelSelector", Kind::Text),
    ("limit", Kind::Number),
    ("resourceVersion", Kind::Text),
    ("resourceVersionMatch", Kind::Text),
    ("sendInitialEvents", Kind::Flag),
    ("timeoutSeconds", Kind::Number),
    ("watch", Kind::Flag),
];
const DELETE: [Parameter; 5] = [
    DRY_RUN,
    ("gracePeriodSeconds", Kind::Number),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", Kind::Flag),
    ("orphanDependents", Kind::Flag),
    ("propagationPolicy", Kind::Text),
];
const LOG: [Parameter; 11] = [
    ("container", Kind::Text),
    ("follow", Kind::Flag),
    ("insecureSkipTLSVerifyBackend", Kind::Flag),
    ("limitBytes", Kind::Number),
    ("previous", Kind::Flag),
    ("sinceSeconds", Kind::Number),
    ("sinceTime", Kind::Text),
    ("stream", Kind::Text),
    ("tailLines", Kind::Number),
    ("timestamps", Kind::Flag),
    PRETTY,
];
const STREAM: [Parameter; 6] = [
    ("command", Kind::Text),
    ("container", Kind::Text),
    ("stderr", Kind::Flag),
    ("stdin", Kind::Flag),
    ("stdout", Kind::Flag),
    ("tty", Kind::Flag),
];

/// One operation.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub method: &'static str,
    /// x-kubernetes-action.
    pub action: &'static str,
    pub id: String,
    pub parameters: Vec<Parameter>,
    /// The body's definition.
    pub body: Option<String>,
    pub body_required: bool,
    /// The definition of the answer; plain text where there is none.
    pub answer: Option<String>,
    /// Codes beside 200.
    pub codes: &'static [&'static str],
    pub kind: GroupVersionKind,
}

/// `AppsV1`, `CoreV1`, `RbacAuthorizationV1`: the part of operation ids that names group and version.
pub(super) fn id_part(group: &str, version: &str) -> String {
    let group = if group.is_empty() { "core" } else { group.trim_end_matches(".k8s.io") };
    group.split(['.', '-']).chain([version]).map(capital).collect()
}

pub(super) fn capital(word: &str) -> String {
    let mut characters = word.chars();
    characters.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + characters.as_str())
}

/// The operation that a verb of discovery stands for on a collection's or an object's path.
pub(super) fn operation(
    verb: &str,
    part: &str,
    name: &str,
    definition: &str,
    list: &str,
    kind: &GroupVersionKind,
) -> Option<Operation> {
    let mut operation = Operation {
        method: "get",
        action: "get",
        id: String::new(),
        parameters: Vec::new(),
        body: None,
        body_required: false,
        answer: Some(definition.to_owned()),
        codes: &[],
        kind: kind.clone(),
    };
    let word = match verb {
        "get" => "read",
        "list" => {
            operation.action = "list";
            operation.answer = Some(list.to_owned());
            operation.parameters = LIST.to_vec();
            "list"
        }
        "create" => {
            (operation.method, operation.action) = ("post", "post");
            operation.parameters = vec![DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
            operation.body = Some(definition.to_owned());
            operation.body_required = true;
            operation.codes = &["201", "202"];
            "create"
        }
        "update" => {
            (operation.method, operation.action) = ("put", "put");
            operation.parameters = vec![DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
            operation.body = Some(definition.to_owned());
            operation.body_required = true;
            operation.codes = &["201"];
            "replace"
        }
        "patch" => {
            (operation.method, operation.action) = ("patch", "patch");
            operation.parameters = vec![DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, ("force", Kind::Flag)];
            operation.body = Some(PATCH.to_owned());
            operation.body_required = true;
            operation.codes = &["201"];
            "patch"
        }
        "delete" => {
            (operation.method, operation.action) = ("delete", "delete");
            operation.parameters = DELETE.to_vec();
            operation.body = Some(DELETE_OPTIONS.to_owned());
            operation.answer = Some(STATUS.to_owned());
            operation.codes = &["202"];
            "delete"
        }
        "deletecollection" => {
            (operation.method, operation.action) = ("delete", "deletecollection");
            operation.parameters = DELETE
                .iter()
                .chain(&LIST)
                .filter(|one| !matches!(one.0, "watch" | "allowWatchBookmarks"))
                .copied()
                .collect();
            operation.body = Some(DELETE_OPTIONS.to_owned());
            operation.answer = Some(STATUS.to_owned());
            operation.id = format!("delete{part}Collection{name}");
            return Some(operation);
        }
        _ => return None,
    };
    operation.id = format!("{word}{part}{name}");
    Some(operation)
}

/// What a subresource's path does differently: streams and logs have parameters of their own and answer with text.
pub(super) fn adapt_subresource(subresource: &str, operation: &mut Operation) {
    match subresource {
        "log" => operation.parameters = LOG.to_vec(),
        "exec" | "attach" => operation.parameters = STREAM.to_vec(),
        "portforward" => operation.parameters = vec![("ports", Kind::Number)],
        "proxy" => operation.parameters = vec![("path", Kind::Text)],
        _ => return,
    }
    operation.action = if subresource == "log" { "get" } else { "connect" };
    operation.body = None;
    operation.answer = None;
    operation.codes = &[];
}
