//! The one shape of a controller.

use jiff::Timestamp;

use crate::action::{Failure, Plan};
use crate::view::{Key, Typed, View};

/// One object before and after; at least one side is there.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// What the view held before.
    pub old: Option<&'a Typed>,
    /// What it holds now.
    pub new: Option<&'a Typed>,
}

impl<'a> Change<'a> {
    /// Both sides that are there.
    pub fn sides(&self) -> impl Iterator<Item = &'a Typed> + use<'a> {
        self.old.into_iter().chain(self.new)
    }
}

/// A level-triggered function of state. It receives a key, never an event, and gives a plan that something else commits.
pub trait Controller: Send + 'static {
    /// The name by which upstream knows it: `deployment-controller`. It is also its service account's name.
    const NAME: &'static str;
    /// The component that its events report.
    const COMPONENT: &'static str = Self::NAME;
    /// What it remembers per key between plans (windows, failures). Losing it loses nothing that state does not bring back.
    type Memory: Default + Send;

    /// Whether a key's memory outlasts its rest: for what state does not tell, such as which objects were seen at all. It has
    /// to end with the object.
    fn keeps(_memory: &Self::Memory) -> bool {
        false
    }

    /// Which keys a change concerns.
    fn keys(view: &View, change: Change<'_>) -> Vec<Key>;

    /// Which keys it concerns that a node is seen otherwise than before by its heartbeats.
    fn seen(_view: &View, _node: &str) -> Vec<Key> {
        Vec::new()
    }

    /// What should happen now.
    fn plan(view: &View, key: &Key, memory: &mut Self::Memory, now: Timestamp) -> Plan;

    /// An action of the last plan failed.
    fn failed(_memory: &mut Self::Memory, _failure: &Failure) {}
}
