//! What a kind's own code may do at each step of the write door. Everything has a default that does nothing.

use object::{Cause, Value};

/// How long a deletion waits for whoever runs the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grace {
    /// The object goes at once (finalizers permitting).
    Immediate,
    /// deletionTimestamp and deletionGracePeriodSeconds are set, and the object stays until deleted again with 0.
    Seconds(i64),
}

/// A kind's code. Objects are hub objects: conversion happens before and after.
pub trait Hooks: Send + Sync + 'static {
    /// Sets defaults that depend on other fields; static ones come from the schema, before.
    fn default(&self, _object: &mut Value) {}

    /// Changes a new object before it is validated: initial status, what clients may not choose.
    fn prepare_create(&self, _object: &mut Value) {}

    /// Changes an updated object before it is validated; status is the old one's already.
    fn prepare_update(&self, _new: &mut Value, _old: &Value) {}

    /// Changes an object written through its status subresource; all but metadata and status is the old one's already.
    fn prepare_status(&self, _new: &mut Value, _old: &Value) {}

    /// What is wrong with the object, beside metadata.
    fn validate(&self, _object: &Value) -> Vec<Cause> {
        Vec::new()
    }

    /// What is wrong with the change; runs in addition to `validate`.
    fn validate_update(&self, _new: &Value, _old: &Value) -> Vec<Cause> {
        Vec::new()
    }

    /// What is wrong with a change of status.
    fn validate_status(&self, _new: &Value, _old: &Value) -> Vec<Cause> {
        Vec::new()
    }

    /// Sentences for the Warning header.
    fn warnings(&self, _new: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }

    /// How long deletion waits; `requested` is the client's gracePeriodSeconds.
    fn graceful_delete(&self, _object: &Value, _requested: Option<i64>) -> Grace {
        Grace::Immediate
    }
}

/// The hooks of a kind without code of its own.
pub struct Plain;

impl Hooks for Plain {}
