//! get and list with upstream's resourceVersion rules.

use super::Selection;
use super::components;
use super::continuation::Token;
use crate::core::{Core, Scope};
use object::{Cause, Status};
use std::sync::Arc;
use std::time::Duration;
use store::{Entry, Revision};

/// How long a read waits for a revision that is not there yet; upstream's.
const FUTURE_WAIT: Duration = Duration::from_secs(3);
/// How many entries a selective page looks at in one go.
const CHUNK: usize = 1000;

/// Paging and consistency of a list.
#[derive(Clone, Debug, Default)]
pub(crate) struct Page {
    pub(crate) limit: usize,
    pub(crate) continuation: String,
    pub(crate) resource_version: String,
    pub(crate) resource_version_match: String,
}

/// A page of a collection.
pub(crate) struct Listed {
    pub(crate) entries: Vec<Arc<Entry>>,
    pub(crate) revision: Revision,
    /// How many follow, where it is known.
    pub(crate) remaining: Option<usize>,
    /// The token for the next page; empty at the end.
    pub(crate) continuation: String,
}

/// Reads one object.
pub(crate) async fn get(core: &Core, scope: &Scope<'_>, resource_version: &str) -> Result<Arc<Entry>, Status> {
    wait_for(core, parse_revision(resource_version)?).await?;
    if components::is_asked(scope) {
        return components::get(core, scope);
    }
    core.store.get(&scope.key(scope.name)).ok_or_else(|| Status::not_found(&scope.gvr(), scope.name))
}

pub(crate) fn parse_revision(text: &str) -> Result<Option<Revision>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let number = text.parse().map_err(|_| {
        Status::bad_request(format!(
            "resourceVersion: Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax"
        ))
    })?;
    Ok(Some(Revision(number)))
}

/// Waits until the store has reached a revision; 504 as upstream where it does not come.
pub(crate) async fn wait_for(core: &Core, revision: Option<Revision>) -> Result<(), Status> {
    let Some(revision) = revision else { return Ok(()) };
    let deadline = tokio::time::Instant::now() + FUTURE_WAIT;
    while core.store.revision() < revision {
        if tokio::time::Instant::now() >= deadline {
            let current = core.store.revision();
            let message = format!("Timeout: Too large resource version: {revision}, current: {current}");
            let mut status = Status::new(504, "Timeout", message);
            status.causes = vec![Cause {
                reason: "ResourceVersionTooLarge".into(),
                message: "Too large resource version".to_owned(),
                field: String::new(),
            }];
            status.retry_after_seconds = 1;
            return Err(status);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Checks the parameters and says at which revision to read.
async fn consistency(core: &Core, page: &Page) -> Result<(Option<Revision>, Option<String>), Status> {
    let given = parse_revision(&page.resource_version)?;
    if !page.continuation.is_empty() {
        if given.is_some_and(|revision| revision.0 != 0) {
            return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
        }
        let token = Token::decode(&page.continuation)?;
        return Ok((Some(token.revision), Some(token.start_after)));
    }
    match (page.resource_version_match.as_str(), given) {
        ("", _) | ("NotOlderThan", Some(_)) => {
            wait_for(core, given).await?;
            Ok((None, None))
        }
        ("Exact", Some(revision)) if revision.0 > 0 => {
            wait_for(core, given).await?;
            Ok((Some(revision), None))
        }
        // What contradicts itself has been refused where the query was read.
        _ => Ok((None, None)),
    }
}

/// A page of a collection as `page` asks for it.
pub(crate) async fn list(core: &Core, scope: &Scope<'_>, selection: &Selection, page: &Page) -> Result<Listed, Status> {
    let (at, start_after) = consistency(core, page).await?;
    if components::is_asked(scope) {
        return Ok(components::list(core, scope, selection));
    }
    let limit = (page.limit > 0).then_some(page.limit);
    read(core, scope, selection, limit, at, start_after)
}

/// All selected entries of a collection, at a revision or now.
pub(crate) fn entries(
    core: &Core,
    scope: &Scope<'_>,
    selection: &Selection,
    at: Option<Revision>,
) -> Result<Listed, Status> {
    read(core, scope, selection, None, at, None)
}

fn read(
    core: &Core,
    scope: &Scope<'_>,
    selection: &Selection,
    limit: Option<usize>,
    at: Option<Revision>,
    start_after: Option<String>,
) -> Result<Listed, Status> {
    let continued = start_after.is_some();
    let expired = |_| {
        Status::expired(if continued {
            "The provided continue parameter is too old to display a consistent list result. You can start a new list \
             without the continue parameter."
        } else {
            "The resourceVersion for the provided list is too old."
        })
    };
    let bucket = scope.row.bucket.as_str();
    let prefix = prefix(scope, selection);
    if selection.is_everything() {
        let list = core.store.list(bucket, &prefix, start_after.as_deref(), limit, at).map_err(expired)?;
        let continuation = token(&list.entries, list.revision, list.more);
        let remaining = list.more.then_some(list.remaining);
        return Ok(Listed { entries: list.entries, revision: list.revision, remaining, continuation });
    }
    let mut selected: Vec<Arc<Entry>> = Vec::new();
    let mut cursor = start_after;
    let mut pinned = at;
    loop {
        // Without a limit the whole collection is read at once; with one, by chunks, all at the first one's revision.
        let chunk = limit.map(|_| CHUNK);
        let list = core.store.list(bucket, &prefix, cursor.as_deref(), chunk, pinned).map_err(expired)?;
        pinned = Some(list.revision);
        let (count, more) = (list.entries.len(), list.more);
        for (at, entry) in list.entries.iter().enumerate() {
            if !selection.matches_entry(&scope.row, entry) {
                continue;
            }
            selected.push(Arc::clone(entry));
            if limit.is_some_and(|limit| selected.len() >= limit) {
                let continuation = token(&selected, list.revision, more || at + 1 < count);
                return Ok(Listed { entries: selected, revision: list.revision, remaining: None, continuation });
            }
        }
        if !more {
            return Ok(Listed {
                entries: selected,
                revision: list.revision,
                remaining: None,
                continuation: String::new(),
            });
        }
        cursor = list.entries.last().map(|entry| entry.key.rest().to_owned());
    }
}

/// The keys' prefix; a field selector that names one object narrows it to that.
pub(crate) fn prefix(scope: &Scope<'_>, selection: &Selection) -> String {
    let mut prefix = scope.prefix();
    if scope.row.namespaced
        && prefix.is_empty()
        && let Some(namespace) = &selection.namespace
    {
        prefix = format!("{namespace}/");
    }
    if let Some(name) = &selection.name
        && (!scope.row.namespaced || !prefix.is_empty())
    {
        prefix.push_str(name); // other names that begin with it are left to the selector
    }
    prefix
}

fn token(entries: &[Arc<Entry>], revision: Revision, more: bool) -> String {
    match entries.last() {
        Some(last) if more => Token { revision, start_after: last.key.rest().to_owned() }.encode(),
        _ => String::new(),
    }
}
