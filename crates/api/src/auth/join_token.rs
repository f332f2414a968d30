//! Join tokens (upstream's bootstrap tokens): `ID.SECRET`, kept as Secrets `kube-system/bootstrap-token-ID`.

use super::Objects;
use super::user::User;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use object::Value;
use sha2::{Digest, Sha256};

const GROUP: &str = "system:bootstrappers";
const TYPE: &str = "bootstrap.kubernetes.io/token";

/// Splits `ID.SECRET`: six and sixteen lower-case letters and digits.
fn parts(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    (plain(id, 6) && plain(secret, 16)).then_some((id, secret))
}

/// Whether the text has the form of a join token.
pub(super) fn has_form(token: &str) -> bool {
    parts(token).is_some()
}

/// Whose token it is, if it holds at `now` (Unix seconds).
pub(super) fn verify(token: &str, objects: &dyn Objects, now: i64) -> Option<User> {
    let (id, secret) = parts(token)?;
    let object = objects.get("secrets", &format!("kube-system/bootstrap-token-{id}"))?;
    if object.str_at(&["type"]) != Some(TYPE) || object.at(&["metadata", "deletionTimestamp"]).is_some() {
        return None;
    }
    let text = |key: &str| {
        let bytes = STANDARD.decode(object.str_at(&["data", key])?).ok()?;
        String::from_utf8(bytes).ok()
    };
    // Digests are compared, so that the time that it takes says nothing about the secret.
    let known = text("token-secret")?;
    if text("token-id")? != id || Sha256::digest(&known) != Sha256::digest(secret) {
        return None;
    }
    if text("usage-bootstrap-authentication").as_deref() != Some("true") {
        return None;
    }
    if let Some(expiration) = text("expiration") {
        let expires: jiff::Timestamp = expiration.trim().parse().ok()?;
        if expires.as_second() <= now {
            return None;
        }
    }
    let extra = text("auth-extra-groups").unwrap_or_default();
    let extra = extra.split(',').map(str::trim).filter(|group| group.starts_with("system:bootstrappers:"));
    let groups = [GROUP].into_iter().chain(extra).map(str::to_owned).collect::<Vec<_>>();
    Some(User::authenticated(format!("system:bootstrap:{id}"), groups))
}

/// The requester's identity in the spec of a new CertificateSigningRequest, whatever its sender wrote there.
pub(crate) fn stamp_requester(user: &User, request: &mut Value) {
    let info = user.to_value();
    for (field, member) in [("username", "username"), ("uid", "uid"), ("groups", "groups"), ("extra", "extra")] {
        match info.get(member) {
            Some(value) => {
                request.set(&["spec", field], value.clone());
            }
            None => {
                if let Some(spec) =
                    request.as_object_mut().and_then(|map| map.get_mut("spec")).and_then(Value::as_object_mut)
                {
                    spec.remove(field);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::Map;
    use std::sync::Arc;

    struct One(Arc<Value>);

    impl Objects for One {
        fn get(&self, bucket: &str, rest: &str) -> Option<Arc<Value>> {
            (bucket == "secrets" && rest == "kube-system/bootstrap-token-abcdef").then(|| Arc::clone(&self.0))
        }
        fn list(&self, _: &str) -> Vec<Arc<Value>> {
            Vec::new()
        }
    }

    fn secret(changed: &[(&str, &str)]) -> One {
        let mut data: Vec<(&str, &str)> = vec![
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
            ("expiration", "2026-11-02T00:00:00Z"),
            ("auth-extra-groups", "system:bootstrappers:workers, system:masters"),
        ];
        for (key, value) in changed {
            data.retain(|(known, _)| known != key);
            data.push((key, value));
        }
        let mut object = Value::default();
        object.set(&["type"], TYPE.into());
        let data: Map = data.iter().map(|(key, value)| (*key, Value::from(STANDARD.encode(value)))).collect();
        object.set(&["data"], Value::Object(data));
        One(Arc::new(object))
    }

    const NOW: i64 = 1_793_491_200; // 2026-11-01

    #[test]
    fn a_token_is_its_user() {
        let user = verify("abcdef.0123456789abcdef", &secret(&[]), NOW).unwrap_or_default();
        assert_eq!(user.name, "system:bootstrap:abcdef");
        // No other group can be had by a token.
        assert_eq!(user.groups, ["system:bootstrappers", "system:bootstrappers:workers", "system:authenticated"]);
    }

    #[test]
    fn what_does_not_hold_is_nobody() {
        let cases: &[(&str, &[(&str, &str)])] = &[
            ("abcdef.0123456789abcdee", &[]),
            ("abcdeg.0123456789abcdef", &[]),
            ("abcdef.0123456789abcde", &[]),
            ("ABCDEF.0123456789abcdef", &[]),
            ("abcdef", &[]),
            ("abcdef.0123456789abcdef", &[("expiration", "2026-11-01T00:00:00Z")]),
            ("abcdef.0123456789abcdef", &[("expiration", "soon")]),
            ("abcdef.0123456789abcdef", &[("usage-bootstrap-authentication", "no")]),
            ("abcdef.0123456789abcdef", &[("token-id", "other1")]),
        ];
        for (token, changed) in cases {
            assert_eq!(verify(token, &secret(changed), NOW), None, "{token} {changed:?}");
        }
    }

    #[test]
    fn the_requester_is_stamped_over_what_was_written() {
        let mut request = Value::default();
        request.set(&["spec", "username"], "admin".into());
        request.set(&["spec", "uid"], "1".into());
        stamp_requester(&User::authenticated("system:bootstrap:abcdef", [GROUP]), &mut request);
        assert_eq!(request.str_at(&["spec", "username"]), Some("system:bootstrap:abcdef"));
        assert_eq!(request.at(&["spec", "uid"]), None);
        assert_eq!(request.at(&["spec", "groups"]).and_then(Value::as_array).map(<[Value]>::len), Some(2));
    }
}
