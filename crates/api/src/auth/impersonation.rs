//! Impersonation: the headers with which a caller who may asks to be taken for somebody else.

use super::authorize::{Attributes, Authorizer};
use super::user::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, User};
use http::HeaderMap;
use object::{GroupVersionResource, Status};

const EXTRA: &str = "impersonate-extra-";
/// More values than this in one request are refused.
const VALUES_MAX: usize = 256;

/// The identity that the request is to have: `user` itself without such headers.
///
/// # Errors
/// 403 where `user` may not impersonate what the headers name; 400 for headers without a user.
pub fn impersonate(user: User, headers: &HeaderMap, authorizer: &Authorizer) -> Result<User, Status> {
    let values = |name: &str| headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>();
    let (names, groups, uids) = (values("impersonate-user"), values("impersonate-group"), values("impersonate-uid"));
    let extra: Vec<(String, &str)> = headers
        .iter()
        .filter_map(|(name, value)| {
            Some((object::percent::decode(name.as_str().strip_prefix(EXTRA)?), value.to_str().ok()?))
        })
        .collect();
    let Some(name) = names.first().filter(|name| !name.is_empty()) else {
        if groups.is_empty() && uids.is_empty() && extra.is_empty() {
            return Ok(user);
        }
        return Err(Status::bad_request("requested [] without impersonating a user"));
    };
    if groups.len() + extra.len() > VALUES_MAX {
        return Err(Status::bad_request(format!("more than {VALUES_MAX} impersonation headers")));
    }
    let mut wanted = match User::named(name, &[]).as_service_account() {
        Some((namespace, account)) => {
            check(&user, authorizer, "", "serviceaccounts", "", namespace, account)?;
            User::service_account(namespace, account, "")
        }
        None => {
            check(&user, authorizer, "", "users", "", "", name)?;
            User { name: (*name).to_owned(), ..User::default() }
        }
    };
    if !groups.is_empty() {
        wanted.groups.clear();
    }
    for group in groups {
        check(&user, authorizer, "", "groups", "", "", group)?;
        wanted.groups.push(group.to_owned());
    }
    if let Some(uid) = uids.first() {
        check(&user, authorizer, "authentication.k8s.io", "uids", "", "", uid)?;
        wanted.uid = (*uid).to_owned();
    }
    for (key, value) in extra {
        check(&user, authorizer, "authentication.k8s.io", "userextras", &key, "", value)?;
        wanted.extra.entry(key).or_default().push(value.to_owned());
    }
    let anonymous = wanted.name == ANONYMOUS;
    let everyone = if anonymous { UNAUTHENTICATED } else { AUTHENTICATED };
    if !wanted.in_group(AUTHENTICATED) && !wanted.in_group(UNAUTHENTICATED) {
        wanted.groups.push(everyone.to_owned());
    }
    Ok(wanted)
}

fn check(
    user: &User,
    authorizer: &Authorizer,
    group: &str,
    resource: &str,
    subresource: &str,
    namespace: &str,
    name: &str,
) -> Result<(), Status> {
    let verb = "impersonate";
    let request = Attributes {
        user,
        verb,
        group,
        resource,
        subresource,
        namespace,
        name,
        is_resource: true,
        ..Attributes::default()
    };
    if authorizer.authorize(&request).allowed {
        return Ok(());
    }
    let about = GroupVersionResource::new(group, "v1", resource);
    Err(Status::forbidden(&about, name, &request.refusal()))
}
