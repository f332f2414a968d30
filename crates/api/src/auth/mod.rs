//! Who a caller is and what it may do: authentication, impersonation, RBAC, reviews, the default policy.

mod authenticate;
mod authorize;
mod default_policy;
mod escalation;
mod impersonation;
mod join_token;
mod legacy_token;
mod node_authorizer;
mod node_graph;
mod node_references;
mod policy;
mod reconcile;
pub(crate) mod removed_nodes;
mod review;
mod rules;
mod token;
mod user;

pub use authenticate::Authenticator;
pub use authorize::{Attributes, Authorizer, Decision};
pub use default_policy::default_objects;
pub use escalation::{check_binding, check_role};
pub use impersonation::impersonate;
pub(crate) use join_token::stamp_requester;
pub use node_graph::NodeGraph;
pub use policy::{BUCKETS, Policy};
pub use reconcile::{Reconciled, reconcile};
pub use removed_nodes::removal_record;
pub use review::{Reviewed, Reviewer};
pub use token::{Binding, TokenRequest, Tokens};
pub use user::User;

use object::Value;
use std::sync::Arc;

/// The objects that authentication and authorisation look at; the API gives its store's decoded entries.
pub trait Objects: Send + Sync {
    /// The object `rest` (`namespace/name` or `name`) of a bucket such as `serviceaccounts` or `roles.rbac.authorization.k8s.io`.
    fn get(&self, bucket: &str, rest: &str) -> Option<Arc<Value>>;

    /// All objects of a bucket.
    fn list(&self, bucket: &str) -> Vec<Arc<Value>>;
}
