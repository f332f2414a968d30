//! ServiceAccount tokens: signed JWTs (ES256), bound to an audience, a lifetime and optionally a pod, node or secret.
//!
//! Source: KEP-1205 bound ServiceAccount tokens, KEP-4193 node and JTI claims.

use super::Objects;
use super::user::{User, strings, strings_at};
use crate::pki::Pki;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use object::{GroupVersionKind, GroupVersionResource, Map, Status, Value};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The lifetime of a token for which none is asked, in seconds.
const LIFETIME_SECONDS: i64 = 3600;
/// Shorter ones are refused.
const LIFETIME_SECONDS_MIN: i64 = 600;
/// Longer ones are cut to this.
const LIFETIME_SECONDS_MAX: i64 = 365 * 24 * 3600;
/// Nothing longer is looked at as a token.
const TOKEN_BYTES_MAX: usize = 64 * 1024;

/// The object that a token lives and dies with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// `Pod`, `Node` or `Secret`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// What a token is asked for (authentication.k8s.io TokenRequest spec).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenRequest {
    /// Audiences; empty for the API server's own.
    pub audiences: Vec<String>,
    /// Seconds; None for an hour.
    pub expiration_seconds: Option<i64>,
    /// The object it is bound to.
    pub binding: Option<Binding>,
}

impl TokenRequest {
    /// Reads the spec of a TokenRequest object.
    #[must_use]
    pub fn from_value(request: &Value) -> Self {
        let reference = request.at(&["spec", "boundObjectRef"]).filter(|reference| !reference.is_null());
        let text = |value: &Value, key: &str| value.str_at(&[key]).unwrap_or_default().to_owned();
        TokenRequest {
            audiences: strings_at(request, &["spec", "audiences"]),
            expiration_seconds: request.i64_at(&["spec", "expirationSeconds"]),
            binding: reference.map(|reference| Binding {
                kind: text(reference, "kind"),
                name: text(reference, "name"),
                uid: text(reference, "uid"),
            }),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Named {
    name: String,
    uid: String,
}

#[derive(Serialize, Deserialize)]
struct KubernetesClaims {
    namespace: String,
    serviceaccount: Named,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<Named>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<Named>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<Named>,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    aud: Vec<String>,
    exp: i64,
    iat: i64,
    iss: String,
    jti: String,
    nbf: i64,
    sub: String,
    #[serde(rename = "kubernetes.io")]
    kubernetes: KubernetesClaims,
}

/// Issues and checks tokens.
pub struct Tokens {
    issuer: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
    key_id: String,
    public_point: Vec<u8>,
}

impl Tokens {
    /// With the keys of `pki`; `issuer` is also the audience of tokens for the API server.
    #[must_use]
    pub fn new(pki: &Pki, issuer: &str) -> Self {
        let point = pki.token_public_key();
        Tokens {
            issuer: issuer.to_owned(),
            encoding: EncodingKey::from_ec_der(pki.token_key()),
            decoding: DecodingKey::from_ec_der(point),
            key_id: URL_SAFE_NO_PAD.encode(Sha256::digest(point)),
            public_point: point.to_vec(),
        }
    }

    /// What tokens are signed with, and what they are checked with.
    pub(super) fn encoding(&self) -> &EncodingKey {
        &self.encoding
    }

    pub(super) fn decoding(&self) -> &DecodingKey {
        &self.decoding
    }

    pub(super) fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The audience that the API server itself accepts.
    #[must_use]
    pub fn audience(&self) -> &str {
        &self.issuer
    }

    /// Answers a TokenRequest for the ServiceAccount `account`: the token and the instant (Unix seconds) of its end.
    ///
    /// # Errors
    /// 422 for a lifetime below ten minutes, 409 and 404 where the object it is to be bound to is not there.
    pub fn issue(
        &self,
        account: &Value,
        request: &TokenRequest,
        objects: &dyn Objects,
        now_seconds: i64,
        id: String,
    ) -> Result<(String, i64), Status> {
        let text = |key| account.str_at(&["metadata", key]).unwrap_or_default().to_owned();
        let (namespace, name, uid) = (text("namespace"), text("name"), text("uid"));
        let lifetime = request.expiration_seconds.unwrap_or(LIFETIME_SECONDS);
        if lifetime < LIFETIME_SECONDS_MIN {
            let kind = GroupVersionKind::parse("authentication.k8s.io/v1", "TokenRequest");
            let cause = object::Cause {
                reason: "FieldValueInvalid".into(),
                message: format!("Invalid value: {lifetime}: may not specify a duration less than 10 minutes"),
                field: "spec.expirationSeconds".to_owned(),
            };
            return Err(Status::invalid(&kind, "", vec![cause]));
        }
        let expires = now_seconds + lifetime.min(LIFETIME_SECONDS_MAX);
        let mut kubernetes = KubernetesClaims {
            namespace: namespace.clone(),
            serviceaccount: Named { name: name.clone(), uid },
            pod: None,
            node: None,
            secret: None,
        };
        if let Some(binding) = &request.binding {
            bind(&mut kubernetes, binding, &namespace, objects)?;
        }
        let audiences =
            if request.audiences.is_empty() { vec![self.issuer.clone()] } else { request.audiences.clone() };
        let claims = Claims {
            aud: audiences,
            exp: expires,
            iat: now_seconds,
            iss: self.issuer.clone(),
            jti: id,
            nbf: now_seconds,
            sub: format!("system:serviceaccount:{namespace}:{name}"),
            kubernetes,
        };
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.key_id.clone());
        let token = jsonwebtoken::encode(&header, &claims, &self.encoding).map_err(Status::internal)?;
        Ok((token, expires))
    }

    /// The user of a token, the audiences (of `wanted`) that it is good for, and its end in Unix seconds.
    /// None for anything that is no valid token of ours.
    #[must_use]
    pub fn verify(
        &self,
        token: &str,
        wanted: &[String],
        objects: &dyn Objects,
        now_seconds: i64,
    ) -> Option<(User, Vec<String>, i64)> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let mut validation = Validation::new(Algorithm::ES256);
        validation.validate_exp = false; // with the caller's clock, below
        validation.validate_aud = false;
        validation.set_issuer(&[&self.issuer]);
        let Ok(decoded) = jsonwebtoken::decode::<Claims>(token, &self.decoding, &validation) else {
            // One from a Secret names no audience: it is for the API alone, and has no end.
            let user = self.verify_legacy(token, objects)?;
            let audiences: Vec<String> = wanted.iter().filter(|one| **one == self.issuer).cloned().collect();
            return (!audiences.is_empty()).then_some((user, audiences, i64::MAX));
        };
        let claims = decoded.claims;
        if now_seconds >= claims.exp || now_seconds + 60 < claims.nbf {
            return None;
        }
        let audiences: Vec<String> = wanted.iter().filter(|one| claims.aud.contains(one)).cloned().collect();
        if audiences.is_empty() {
            return None;
        }
        let inner = &claims.kubernetes;
        let rest = format!("{}/{}", inner.namespace, inner.serviceaccount.name);
        alive(objects, "serviceaccounts", &rest, &inner.serviceaccount.uid)?;
        let mut extra = BTreeMap::new();
        extra.insert("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("JTI={}", claims.jti)]);
        if let Some(pod) = &inner.pod {
            alive(objects, "pods", &format!("{}/{}", inner.namespace, pod.name), &pod.uid)?;
            extra.insert("authentication.kubernetes.io/pod-name".to_owned(), vec![pod.name.clone()]);
            extra.insert("authentication.kubernetes.io/pod-uid".to_owned(), vec![pod.uid.clone()]);
        }
        if let Some(secret) = &inner.secret {
            alive(objects, "secrets", &format!("{}/{}", inner.namespace, secret.name), &secret.uid)?;
        }
        if let Some(node) = &inner.node {
            if inner.pod.is_none() {
                alive(objects, "nodes", &node.name, &node.uid)?;
            }
            extra.insert("authentication.kubernetes.io/node-name".to_owned(), vec![node.name.clone()]);
            extra.insert("authentication.kubernetes.io/node-uid".to_owned(), vec![node.uid.clone()]);
        }
        let mut user = User::service_account(&inner.namespace, &inner.serviceaccount.name, &inner.serviceaccount.uid);
        user.extra = extra;
        Some((user, audiences, claims.exp))
    }

    /// `/.well-known/openid-configuration`.
    #[must_use]
    pub fn openid_configuration(&self, jwks_uri: &str) -> Value {
        let list = |items: &[&str]| Value::Array(items.iter().map(|item| Value::from(*item)).collect());
        let mut document = Map::new();
        document.insert("issuer", self.issuer.as_str());
        document.insert("jwks_uri", jwks_uri);
        document.insert("response_types_supported", list(&["id_token"]));
        document.insert("subject_types_supported", list(&["public"]));
        document.insert("id_token_signing_alg_values_supported", list(&["ES256"]));
        Value::Object(document)
    }

    /// `/openid/v1/jwks`.
    #[must_use]
    pub fn key_set(&self) -> Value {
        let coordinate = |range: std::ops::Range<usize>| {
            Value::from(URL_SAFE_NO_PAD.encode(self.public_point.get(range).unwrap_or_default()))
        };
        let members = [
            ("use", Value::from("sig")),
            ("kty", "EC".into()),
            ("kid", self.key_id.as_str().into()),
            ("crv", "P-256".into()),
            ("alg", "ES256".into()),
            ("x", coordinate(1..33)),
            ("y", coordinate(33..65)),
        ];
        let key: Map = members.into_iter().collect();
        Value::Object([("keys", Value::Array(vec![key.into()]))].into_iter().collect())
    }
}

/// Some(()) where the object exists with this uid and is not long gone.
fn alive(objects: &dyn Objects, bucket: &str, rest: &str, uid: &str) -> Option<()> {
    let object = objects.get(bucket, rest)?;
    (object.str_at(&["metadata", "uid"]) == Some(uid)).then_some(())
}

fn bind(
    claims: &mut KubernetesClaims,
    binding: &Binding,
    namespace: &str,
    objects: &dyn Objects,
) -> Result<(), Status> {
    let (bucket, rest) = match binding.kind.as_str() {
        "Pod" => ("pods", format!("{namespace}/{}", binding.name)),
        "Secret" => ("secrets", format!("{namespace}/{}", binding.name)),
        "Node" => ("nodes", binding.name.clone()),
        other => {
            return Err(Status::bad_request(format!("cannot bind token for serviceaccount to object type {other}")));
        }
    };
    let resource = GroupVersionResource::new("", "v1", bucket);
    let object = objects.get(bucket, &rest).ok_or_else(|| Status::not_found(&resource, &binding.name))?;
    let uid = object.str_at(&["metadata", "uid"]).unwrap_or_default().to_owned();
    if !binding.uid.is_empty() && binding.uid != uid {
        let why = format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
            binding.uid
        );
        return Err(Status::conflict(&resource, &binding.name, &why));
    }
    let named = Some(Named { name: binding.name.clone(), uid });
    match binding.kind.as_str() {
        "Pod" => {
            let account = object.str_at(&["spec", "serviceAccountName"]).unwrap_or_default();
            if account != claims.serviceaccount.name {
                let why = format!(
                    "cannot bind token for serviceaccount \"{}\" to pod running with different serviceaccount name.",
                    claims.serviceaccount.name
                );
                return Err(Status::bad_request(why));
            }
            if let Some(node) = object.str_at(&["spec", "nodeName"])
                && let Some(node_object) = objects.get("nodes", node)
            {
                let uid = node_object.str_at(&["metadata", "uid"]).unwrap_or_default().to_owned();
                claims.node = Some(Named { name: node.to_owned(), uid });
            }
            claims.pod = named;
        }
        "Secret" => claims.secret = named,
        _ => claims.node = named,
    }
    Ok(())
}

/// The status of a TokenRequest's answer.
#[must_use]
pub(super) fn audiences_value(audiences: &[String]) -> Value {
    strings(audiences)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::pki::Names;
    use std::collections::HashMap;
    use std::sync::Arc;
    use std::time::SystemTime;

    struct Fixed(HashMap<String, Arc<Value>>);

    impl Objects for Fixed {
        fn get(&self, bucket: &str, rest: &str) -> Option<Arc<Value>> {
            self.0.get(&format!("{bucket}/{rest}")).cloned()
        }
        fn list(&self, _: &str) -> Vec<Arc<Value>> {
            Vec::new()
        }
    }

    fn object(namespace: &str, name: &str, uid: &str) -> Value {
        let mut value = Value::Null;
        for (key, text) in [("namespace", namespace), ("name", name), ("uid", uid)] {
            value.set(&["metadata", key], text.into());
        }
        value
    }

    fn world() -> Fixed {
        let mut pod = object("a", "web", "u-pod");
        pod.set(&["spec", "serviceAccountName"], "robot".into());
        let map = [("serviceaccounts/a/robot", object("a", "robot", "u-robot")), ("pods/a/web", pod)];
        Fixed(map.into_iter().map(|(key, value)| (key.to_owned(), Arc::new(value))).collect())
    }

    fn tokens() -> Tokens {
        let directory = tempfile::tempdir().unwrap();
        let names = Names::inside("cluster.local", [10, 43, 0, 1].into());
        Tokens::new(&Pki::open(directory.path(), names, SystemTime::now()).unwrap(), "https://issuer")
    }

    #[test]
    fn token_lives_as_long_as_its_time_its_account_and_its_pod() {
        let (tokens, mut world) = (tokens(), world());
        let account = world.get("serviceaccounts", "a/robot").unwrap();
        let binding = Binding { kind: "Pod".to_owned(), name: "web".to_owned(), uid: String::new() };
        let request = TokenRequest { binding: Some(binding), ..TokenRequest::default() };
        let (token, expires) = tokens.issue(&account, &request, &world, 1_000_000, "id".to_owned()).unwrap();
        let audience = vec![tokens.audience().to_owned()];
        let (user, _, _) = tokens.verify(&token, &audience, &world, 1_000_001).unwrap();
        assert_eq!(user.name, "system:serviceaccount:a:robot");
        assert!(user.in_group("system:serviceaccounts:a") && user.in_group("system:authenticated"));
        assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["web"]);
        assert_eq!(tokens.verify(&token, &audience, &world, expires), None, "expired");
        assert_eq!(tokens.verify(&token, &["other".to_owned()], &world, 1_000_001), None, "another audience");
        let mut forged = token.clone();
        forged.replace_range(token.len() - 10..token.len() - 6, "AAAA");
        assert_eq!(tokens.verify(&forged, &audience, &world, 1_000_001), None, "forged");
        world.0.remove("pods/a/web");
        assert_eq!(tokens.verify(&token, &audience, &world, 1_000_001), None, "its pod is gone");
    }

    #[test]
    fn requests_that_cannot_be_met_say_why() {
        let (tokens, world) = (tokens(), world());
        let account = world.get("serviceaccounts", "a/robot").unwrap();
        let short = TokenRequest { expiration_seconds: Some(5), ..TokenRequest::default() };
        assert_eq!(tokens.issue(&account, &short, &world, 0, String::new()).unwrap_err().code, 422);
        let gone = Binding { kind: "Pod".to_owned(), name: "nobody".to_owned(), uid: String::new() };
        let bound = TokenRequest { binding: Some(gone), ..TokenRequest::default() };
        assert_eq!(tokens.issue(&account, &bound, &world, 0, String::new()).unwrap_err().code, 404);
    }

    #[test]
    fn key_set_names_the_key_that_signs() {
        let tokens = tokens();
        let set = tokens.key_set();
        let key = &set.get("keys").and_then(Value::as_array).unwrap()[0];
        assert_eq!(key.str_at(&["x"]).map(str::len), Some(43));
        assert_eq!(key.str_at(&["kid"]), Some(tokens.key_id.as_str()));
    }
}
