//! The URLs of the API: where a target lives and how options are written into the query.

use crate::request::{Deletion, PatchKind, Query, Target, WriteOptions};

/// `/api/v1/namespaces/a/pods/b/status` and its like.
#[must_use]
pub fn path(target: &Target) -> String {
    let resource = &target.resource;
    let mut path = match resource.group.as_str() {
        "" => format!("/api/{}", resource.version),
        group => format!("/apis/{group}/{}", resource.version),
    };
    if !target.namespace.is_empty() {
        path.push_str("/namespaces/");
        path.push_str(&target.namespace);
    }
    for part in [&resource.resource, &target.name, &target.subresource] {
        if !part.is_empty() {
            path.push('/');
            path.push_str(part);
        }
    }
    path
}

/// The query of a list; with a revision, of a watch.
pub(crate) fn collection(query: &Query, watch_after: Option<u64>) -> String {
    let mut text = String::new();
    add(&mut text, "labelSelector", &query.labels);
    add(&mut text, "fieldSelector", &query.fields);
    add(&mut text, "continue", &query.continuation);
    if query.limit > 0 {
        add(&mut text, "limit", &query.limit.to_string());
    }
    if let Some(revision) = watch_after {
        add(&mut text, "watch", "true");
        add(&mut text, "allowWatchBookmarks", "true");
        add(&mut text, "resourceVersion", &revision.to_string());
    }
    text
}

/// The query of a write.
pub(crate) fn write(options: &WriteOptions) -> String {
    let mut text = String::new();
    if options.dry_run {
        add(&mut text, "dryRun", "All");
    }
    add(&mut text, "fieldManager", &options.field_manager);
    if options.force {
        add(&mut text, "force", "true");
    }
    text
}

/// The media type of a patch.
pub(crate) fn media_type(kind: PatchKind) -> &'static str {
    match kind {
        PatchKind::Json => "application/json-patch+json",
        PatchKind::Merge => "application/merge-patch+json",
        PatchKind::Strategic => "application/strategic-merge-patch+json",
        PatchKind::Apply => "application/apply-patch+yaml",
    }
}

/// propagationPolicy.
pub(crate) fn propagation(deletion: Deletion) -> &'static str {
    match deletion {
        Deletion::Background => "Background",
        Deletion::Foreground => "Foreground",
        Deletion::Orphan => "Orphan",
    }
}

fn add(text: &mut String, key: &str, value: &str) {
    if value.is_empty() {
        return;
    }
    text.push(if text.is_empty() { '?' } else { '&' });
    text.push_str(key);
    text.push('=');
    text.push_str(&object::percent::encode(value));
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::GroupVersionResource;

    #[test]
    fn paths_and_queries_are_as_upstream_documents() {
        let mut target = Target {
            resource: GroupVersionResource::new("apps", "v1", "deployments"),
            namespace: "a".into(),
            name: "web".into(),
            subresource: "scale".into(),
        };
        assert_eq!(path(&target), "/apis/apps/v1/namespaces/a/deployments/web/scale");
        target.resource = GroupVersionResource::new("", "v1", "nodes");
        target.namespace = "".into();
        target.subresource = "".into();
        assert_eq!(path(&target), "/api/v1/nodes/web");
        let query = Query { labels: "a=b,c in (d)".to_owned(), limit: 5, ..Query::default() };
        assert_eq!(collection(&query, None), "?labelSelector=a%3Db%2Cc%20in%20%28d%29&limit=5");
        assert!(collection(&Query::default(), Some(7)).ends_with("&resourceVersion=7"));
    }
}
