//! Authentication: client certificate, bearer token, or nobody; then impersonation.

use super::join_token;
use super::removed_nodes;
use super::token::Tokens;
use super::user::User;
use super::{Authorizer, Objects, impersonate};
use crate::pki::Pki;
use crate::pki::verify_chain;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use jiff::Timestamp;
use object::Status;
use rustls::pki_types::{CertificateDer, UnixTime};
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

/// How long a verdict about a certificate or a token is believed without looking again.
const BELIEVED: Duration = Duration::from_secs(10);
/// More verdicts than this are not kept; the cache is emptied then.
const VERDICTS_MAX: usize = 4096;
/// A WebSocket client in a browser sends its token as a subprotocol with this prefix.
const WEBSOCKET_BEARER: &str = "base64url.bearer.authorization.k8s.io.";

/// A small map of verdicts that expire.
struct Verdicts<K, V>(Mutex<HashMap<K, (Arc<V>, Instant)>>);

impl<K: Eq + Hash, V> Verdicts<K, V> {
    fn new() -> Self {
        Verdicts(Mutex::new(HashMap::new()))
    }

    fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<Arc<V>>
    where
        K: std::borrow::Borrow<Q>,
    {
        let verdicts = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (verdict, until) = verdicts.get(key)?;
        (*until > Instant::now()).then(|| Arc::clone(verdict))
    }

    fn put(&self, key: K, verdict: &Arc<V>) {
        let mut verdicts = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if verdicts.len() >= VERDICTS_MAX {
            verdicts.clear();
        }
        verdicts.insert(key, (Arc::clone(verdict), Instant::now() + BELIEVED));
    }
}

/// Tells who sends a request.
pub struct Authenticator {
    pki: Arc<Pki>,
    tokens: Arc<Tokens>,
    objects: Arc<dyn Objects>,
    authorizer: Arc<Authorizer>,
    certificates: Verdicts<Vec<u8>, Certified>,
    bearers: Verdicts<String, User>,
}

/// What a certificate says.
struct Certified {
    user: User,
    /// The node that it is for, and when it was issued.
    node: Option<(String, Timestamp)>,
}

impl Authenticator {
    /// With the cluster's authority, its tokens, and the authorizer that judges impersonation.
    #[must_use]
    pub fn new(pki: Arc<Pki>, tokens: Arc<Tokens>, objects: Arc<dyn Objects>, authorizer: Arc<Authorizer>) -> Self {
        Authenticator { pki, tokens, objects, authorizer, certificates: Verdicts::new(), bearers: Verdicts::new() }
    }

    /// The caller with this certificate chain (empty for none) and these headers.
    ///
    /// # Errors
    /// 401 for a credential that does not hold; 403 for impersonation that is not allowed.
    pub fn authenticate(&self, chain: &[CertificateDer<'_>], headers: &HeaderMap) -> Result<User, Status> {
        let user = match chain.first() {
            Some(leaf) => Some(self.by_certificate(leaf, chain).map(|certified| certified.user.clone())),
            None => bearer(headers).map(|token| self.by_token(&token).map(|user| User::clone(&user))),
        };
        // A caller with a certificate that does not hold may still hold a token, as upstream's union of methods.
        let user = match user {
            Some(Err(refused)) if !chain.is_empty() => match bearer(headers) {
                Some(token) => User::clone(&*self.by_token(&token)?),
                None => return Err(refused),
            },
            Some(verdict) => verdict?,
            None => User::anonymous(),
        };
        impersonate(user, headers, &self.authorizer)
    }

    /// Whether the node that a connection's certificates are for was removed since; none where they are no node's.
    pub(crate) fn removed(&self, chain: &[CertificateDer<'_>]) -> Option<bool> {
        // Not who it may be: it was let in once, and the certificate may have ended since.
        let (node, issued) = node_of(&certificate_user(chain.first()?)?, chain.first()?)?;
        Some(removed_nodes::check(self.objects.as_ref(), &node, issued).is_err())
    }

    fn by_certificate(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
    ) -> Result<Arc<Certified>, Status> {
        let certified = match self.certificates.get(leaf.as_ref()) {
            Some(certified) => certified,
            None => {
                verify_chain(&self.pki, chain, UnixTime::now()).map_err(|_| Status::unauthorized())?;
                let user = certificate_user(leaf).ok_or_else(Status::unauthorized)?;
                let certified = Arc::new(Certified { node: node_of(&user, leaf), user });
                self.certificates.put(leaf.as_ref().to_vec(), &certified);
                certified
            }
        };
        // Looked at each time: a removal takes effect at once.
        if let Some((node, issued)) = &certified.node {
            removed_nodes::check(self.objects.as_ref(), node, *issued)?;
        }
        Ok(certified)
    }

    fn by_token(&self, token: &str) -> Result<Arc<User>, Status> {
        if let Some(user) = self.bearers.get(token) {
            return Ok(user);
        }
        if join_token::has_form(token) {
            let user = join_token::verify(token, self.objects.as_ref(), unix_seconds());
            return user.map(Arc::new).ok_or_else(Status::unauthorized);
        }
        let audience = [self.tokens.audience().to_owned()];
        let verdict = self.tokens.verify(token, &audience, self.objects.as_ref(), unix_seconds());
        let (user, _, _) = verdict.ok_or_else(Status::unauthorized)?;
        let user = Arc::new(user);
        self.bearers.put(token.to_owned(), &user);
        Ok(user)
    }
}

/// Now, in Unix seconds.
pub(super) fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The node that a certificate is for, and when it was issued. One whose time cannot be read counts as issued at the beginning of time.
fn node_of(user: &User, leaf: &CertificateDer<'_>) -> Option<(String, Timestamp)> {
    let node = user.as_node()?.to_owned();
    Some((node, removed_nodes::issued_at(leaf).unwrap_or(Timestamp::MIN)))
}

/// Common name and organisations of a certificate.
fn certificate_user(leaf: &CertificateDer<'_>) -> Option<User> {
    let (_, certificate) = x509_parser::parse_x509_certificate(leaf).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups: Vec<String> =
        subject.iter_organization().filter_map(|part| part.as_str().ok()).map(str::to_owned).collect();
    Some(User::authenticated(name, groups))
}

/// The token of `Authorization: Bearer` or of a WebSocket subprotocol.
fn bearer(headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers.get(AUTHORIZATION) {
        let (scheme, token) = value.to_str().ok()?.trim().split_once(' ')?;
        return scheme
            .eq_ignore_ascii_case("bearer")
            .then(|| token.trim().to_owned())
            .filter(|token| !token.is_empty());
    }
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let encoded = offered.flat_map(|line| line.split(',')).find_map(|one| one.trim().strip_prefix(WEBSOCKET_BEARER))?;
    String::from_utf8(URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::pki::Names;
    use object::Value;
    use rustls::pki_types::pem::PemObject;

    struct Empty;
    impl Objects for Empty {
        fn get(&self, _: &str, _: &str) -> Option<Arc<Value>> {
            None
        }
        fn list(&self, _: &str) -> Vec<Arc<Value>> {
            Vec::new()
        }
    }

    fn world() -> (tempfile::TempDir, Arc<Pki>, Authenticator) {
        let directory = tempfile::tempdir().unwrap();
        let names = Names::inside("cluster.local", [10, 43, 0, 1].into());
        let pki = Arc::new(Pki::open(directory.path(), names, SystemTime::now()).unwrap());
        let tokens = Arc::new(Tokens::new(&pki, "https://issuer"));
        let one = Authenticator::new(Arc::clone(&pki), tokens, Arc::new(Empty), Arc::new(Authorizer::default()));
        (directory, pki, one)
    }

    fn certificate(pki: &Pki, now: SystemTime) -> CertificateDer<'static> {
        let issued = pki.issue_client("jane", "system:masters", Duration::from_secs(3600), now).unwrap();
        CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap()
    }

    #[test]
    fn certificate_names_user_and_groups() {
        let (_directory, pki, authenticator) = world();
        let chain = [certificate(&pki, SystemTime::now())];
        let user = authenticator.authenticate(&chain, &HeaderMap::new()).unwrap();
        assert_eq!(user.name, "jane");
        assert_eq!(user.groups, ["system:masters", "system:authenticated"]);
    }

    #[test]
    fn foreign_and_expired_certificates_and_wrong_tokens_are_401() {
        let (_directory, pki, authenticator) = world();
        let (_other_directory, other, _) = world();
        let foreign = [certificate(&other, SystemTime::now())];
        let expired = [certificate(&pki, SystemTime::now() - Duration::from_secs(7200))];
        for chain in [foreign, expired] {
            assert_eq!(authenticator.authenticate(&chain, &HeaderMap::new()).unwrap_err().code, 401);
        }
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, "Bearer rubbish".parse().unwrap());
        assert_eq!(authenticator.authenticate(&[], &headers).unwrap_err().code, 401);
        assert_eq!(authenticator.authenticate(&[], &HeaderMap::new()).unwrap().name, "system:anonymous");
    }

    #[test]
    fn masters_impersonate_and_others_are_refused() {
        let (_directory, pki, authenticator) = world();
        let mut headers = HeaderMap::new();
        headers.insert("impersonate-user", "system:serviceaccount:a:robot".parse().unwrap());
        let chain = [certificate(&pki, SystemTime::now())];
        let user = authenticator.authenticate(&chain, &headers).unwrap();
        assert_eq!(user.as_service_account(), Some(("a", "robot")));
        let refused = authenticator.authenticate(&[], &headers).unwrap_err();
        assert_eq!(refused.code, 403);
        assert!(refused.message.contains("cannot impersonate resource \"serviceaccounts\""), "{refused}");
    }
}
