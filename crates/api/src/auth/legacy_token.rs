//! Tokens in Secrets of type kubernetes.io/service-account-token: without an end, good as long as their Secret holds them.
//!
//! Source: upstream's legacy ServiceAccount tokens, whose claims these have.

use super::Objects;
use super::token::Tokens;
use super::user::User;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, Header, Validation};
use object::{Status, Value};
use serde::{Deserialize, Serialize};

const ISSUER: &str = "kubernetes/serviceaccount";

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    name: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    uid: String,
}

impl Tokens {
    /// The token of a ServiceAccount that is kept in the Secret `secret` of its namespace.
    ///
    /// # Errors
    /// When signing fails.
    pub fn issue_legacy(&self, account: &Value, secret: &str) -> Result<String, Status> {
        let text = |key| account.str_at(&["metadata", key]).unwrap_or_default().to_owned();
        let (namespace, name, uid) = (text("namespace"), text("name"), text("uid"));
        let sub = format!("system:serviceaccount:{namespace}:{name}");
        let claims = Claims { iss: ISSUER.to_owned(), sub, namespace, secret: secret.to_owned(), name, uid };
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.key_id().to_owned());
        jsonwebtoken::encode(&header, &claims, self.encoding()).map_err(Status::internal)
    }

    /// The user of such a token; None for any other, and for one whose account or Secret is not there any more.
    pub(super) fn verify_legacy(&self, token: &str, objects: &dyn Objects) -> Option<User> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.set_issuer(&[ISSUER]);
        let claims = jsonwebtoken::decode::<Claims>(token, self.decoding(), &validation).ok()?.claims;
        let place = |name: &str| format!("{}/{name}", claims.namespace);
        let account = objects.get("serviceaccounts", &place(&claims.name))?;
        if account.str_at(&["metadata", "uid"]) != Some(&claims.uid) {
            return None;
        }
        let secret = objects.get("secrets", &place(&claims.secret))?;
        let held = STANDARD.decode(secret.str_at(&["data", "token"])?).ok()?;
        (held == token.as_bytes()).then(|| User::service_account(&claims.namespace, &claims.name, &claims.uid))
    }
}
