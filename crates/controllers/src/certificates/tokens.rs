//! Join tokens: Secrets of type bootstrap.kubernetes.io/token, how often each admits a node, and their end.

use crate::action::{Action, Plan};
use crate::controller::{Change, Controller};
use crate::meta;
use crate::view::{Key, Typed, View};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

const NAMESPACE: &str = "kube-system";
const PREFIX: &str = "bootstrap-token-";
const TYPE: &str = "bootstrap.kubernetes.io/token";
/// How many nodes the token admits; absent for any number (upstream's tokens).
const USES: &str = "klynge-uses";
/// The requests that it has admitted, one per line.
const USED_BY: &str = "klynge-used-by";
const EXPIRATION: &str = "expiration";
const USER_PREFIX: &str = "system:bootstrap:";

/// Whether the Secret is a join token.
pub(super) fn is_token(secret: &Secret) -> bool {
    secret.type_.as_deref() == Some(TYPE)
        && meta::namespace(&secret.metadata) == NAMESPACE
        && meta::name(&secret.metadata).starts_with(PREFIX)
}

/// The token's id, from the name of its user.
pub(super) fn token_of(username: &str) -> Option<&str> {
    username.strip_prefix(USER_PREFIX).filter(|id| !id.is_empty())
}

/// Whether a token lets a request in.
pub(super) enum Admission {
    Admitted,
    /// First this has to be written down; the write fails if somebody else was faster.
    Record(Box<Action>),
    Refused(String),
}

/// Judges the request `name` by its token.
pub(super) fn admission(view: &View, id: &str, name: &str, now: Timestamp) -> Admission {
    let Some(secret) = view.secrets.get(NAMESPACE, &format!("{PREFIX}{id}")).filter(|secret| is_token(secret)) else {
        return Admission::Refused(format!("the token {id} is gone; make a new one with `klynge token create`"));
    };
    if expires_at(secret).is_some_and(|at| at <= now) {
        return Admission::Refused(format!("the token {id} has expired; make a new one with `klynge token create`"));
    }
    let Some(uses) = uses(secret) else { return Admission::Admitted };
    let users = used_by(secret);
    if users.iter().any(|user| user == name) {
        return Admission::Admitted;
    }
    if users.len() >= uses {
        return Admission::Refused(format!(
            "the token {id} has admitted {uses} of {uses} nodes; make a new one with `klynge token create`"
        ));
    }
    let mut changed = (**secret).clone();
    let lines = users.iter().map(String::as_str).chain([name]).collect::<Vec<_>>().join("\n");
    changed.data.get_or_insert_default().insert(USED_BY.into(), ByteString(lines.into_bytes()));
    Admission::Record(Box::new(Action::update(&changed)))
}

fn text(secret: &Secret, key: &str) -> Option<String> {
    let bytes = secret.data.as_ref()?.get(key)?;
    String::from_utf8(bytes.0.clone()).ok()
}

/// When the token ends; none for never. What does not parse ends it at once, as upstream has it.
fn expires_at(secret: &Secret) -> Option<Timestamp> {
    text(secret, EXPIRATION).map(|at| at.trim().parse().unwrap_or(Timestamp::UNIX_EPOCH))
}

/// How many nodes it admits; what does not parse admits none.
fn uses(secret: &Secret) -> Option<usize> {
    text(secret, USES).map(|uses| uses.trim().parse().unwrap_or(0))
}

fn used_by(secret: &Secret) -> Vec<String> {
    let lines = text(secret, USED_BY).unwrap_or_default();
    lines.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// Removes tokens that have expired, and used-up ones whose last request is gone.
#[derive(Debug)]
pub struct TokenCleaner;

impl Controller for TokenCleaner {
    const NAME: &'static str = "token-cleaner";
    type Memory = ();

    fn keys(view: &View, change: Change<'_>) -> Vec<Key> {
        match (change.old, change.new) {
            (_, Some(Typed::Secret(secret))) if is_token(secret) => vec![Key::of(&secret.metadata)],
            (Some(Typed::CertificateSigningRequest(_)), None) => {
                let tokens = view.secrets.in_namespace(NAMESPACE).filter(|secret| is_token(secret));
                tokens.map(|secret| Key::of(&secret.metadata)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn plan(view: &View, key: &Key, _memory: &mut (), now: Timestamp) -> Plan {
        let Some(secret) = view.secrets.at(key).filter(|secret| is_token(secret)) else { return Plan::nothing() };
        let expires = expires_at(secret);
        let users = used_by(secret);
        let used_up = uses(secret).is_some_and(|uses| users.len() >= uses)
            && users.iter().all(|user| view.certificate_signing_requests.get("", user).is_none());
        if used_up || expires.is_some_and(|at| at <= now) {
            return Plan::of(vec![Action::delete(&**secret)]);
        }
        Plan { actions: Vec::new(), requeue_at: expires }
    }
}
