//! Service account tokens of pods: asked for through the TokenRequest API, kept, and renewed at 80 % of their life.

use super::api::{Api, target};
use crate::volumes::TokenWish;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::Pod;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Tokens are renewed after a day at the latest.
const RENEW_AFTER_MAX_SECONDS: i64 = 24 * 3600;

/// Pod uid, audience and wanted life.
type Key = (String, String, i64);

#[derive(Clone)]
struct Token {
    text: String,
    renew_at: Timestamp,
    expires: Timestamp,
}

/// The tokens of the node's pods; a cheap handle.
#[derive(Clone)]
pub struct Tokens {
    api: Api,
    known: Arc<Mutex<HashMap<Key, Token>>>,
}

impl Tokens {
    /// No tokens yet.
    #[must_use]
    pub fn new(api: Api) -> Self {
        Self { api, known: Arc::default() }
    }

    /// The token for a wish, and when to come back for the next one.
    ///
    /// # Errors
    /// The API's sentence, unless the token in hand is still good.
    pub async fn token(&self, pod: &Pod, wish: &TokenWish, now: Timestamp) -> Result<(String, Timestamp), String> {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let key = (uid.clone(), wish.audience.clone(), wish.expiration_seconds);
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(token) = &known
            && token.renew_at > now
        {
            return Ok((token.text.clone(), token.renew_at));
        }
        match self.request(pod, wish, now).await {
            Ok(token) => {
                let answer = (token.text.clone(), token.renew_at);
                self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(key, token);
                Ok(answer)
            }
            Err(message) => match known.filter(|token| token.expires > now) {
                Some(token) => {
                    let soon = now.checked_add(SignedDuration::from_secs(60)).unwrap_or(Timestamp::MAX);
                    Ok((token.text, soon))
                }
                None => Err(message),
            },
        }
    }

    async fn request(&self, pod: &Pod, wish: &TokenWish, now: Timestamp) -> Result<Token, String> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                attestations: None,
                audiences: if wish.audience.is_empty() { None } else { Some(vec![wish.audience.clone()]) },
                expiration_seconds: Some(wish.expiration_seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: pod.metadata.name.clone(),
                    uid: pod.metadata.uid.clone(),
                }),
            }),
            ..TokenRequest::default()
        };
        let target = target("", "serviceaccounts", namespace, account, "token");
        let answer: TokenRequest =
            self.api.create(target, &request).await.map_err(|status| format!("failed to fetch token: {status}"))?;
        let status = answer.status.ok_or("failed to fetch token: the API gave none")?;
        let expires =
            status.expiration_timestamp.map(|time| time.0).ok_or("failed to fetch token: it has no expiration")?;
        let life = expires.duration_since(now).as_secs();
        let renew = (life * 8 / 10).clamp(1, RENEW_AFTER_MAX_SECONDS);
        let renew_at = now.checked_add(SignedDuration::from_secs(renew)).unwrap_or(expires);
        let text = status.token.ok_or("failed to fetch token: the API gave none")?;
        Ok(Token { text, renew_at, expires })
    }

    /// Forgets a pod's tokens.
    pub fn release(&self, uid: &str) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, _| key.0 != uid);
    }
}
