//! PersistentVolumeClaim: a wish for storage.

use crate::Hooks;
use crate::Resource;
use crate::cells::{text, text_or};
use crate::edit::default_to;
use crate::validation::{forbidden, has_text, one_of, required};
use object::table::Column;
use object::{Cause, Value};

/// The row of PersistentVolumeClaim.
pub(super) fn row() -> Resource {
    Resource::new("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
        .short(&["pvc"])
        .status()
        .with_columns(columns())
        .with_hooks(PersistentVolumeClaim)
}

fn columns() -> Vec<Column> {
    vec![
        Column::name(),
        Column::new("Status", |claim, _| super::access_modes::phase(claim)),
        Column::new("Volume", |claim, _| text(claim, &["spec", "volumeName"])),
        Column::new("Capacity", |claim, _| match has_text(claim, &["spec", "volumeName"]) {
            true => text_or(claim, &["status", "capacity", "storage"], "0"),
            false => "".into(),
        }),
        Column::new("Access Modes", |claim, _| match has_text(claim, &["spec", "volumeName"]) {
            true => super::access_modes::short(claim, &["status", "accessModes"]).into(),
            false => "".into(),
        }),
        Column::new("StorageClass", |claim, _| text(claim, &["spec", "storageClassName"])),
        Column::new("VolumeAttributesClass", |claim, _| {
            text_or(claim, &["spec", "volumeAttributesClassName"], "<unset>")
        }),
        Column::age(),
        Column::new("VolumeMode", |claim, _| text_or(claim, &["spec", "volumeMode"], "<unset>")).wide(),
    ]
}

struct PersistentVolumeClaim;

impl Hooks for PersistentVolumeClaim {
    fn default(&self, claim: &mut Value) {
        default_to(claim, &["spec", "volumeMode"], "Filesystem");
    }

    fn prepare_create(&self, claim: &mut Value) {
        claim.set(&["status"], crate::edit::empty());
        claim.set(&["status", "phase"], "Pending".into());
    }

    fn validate(&self, claim: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        super::access_modes::validate(claim, &mut causes);
        if !has_text(claim, &["spec", "resources", "requests", "storage"]) {
            causes.push(required("spec.resources[storage]", ""));
        }
        one_of(&mut causes, claim, &["spec", "volumeMode"], "spec.volumeMode", &["Block", "Filesystem"]);
        causes
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<Cause> {
        let mut after = new.get("spec").cloned().unwrap_or_default();
        let mut before = old.get("spec").cloned().unwrap_or_default();
        // Binding sets the volume once; the request may grow; the attributes class may change.
        if !has_text(&before, &["volumeName"]) {
            after.remove(&["volumeName"]);
            before.remove(&["volumeName"]);
        }
        for path in [&["resources", "requests", "storage"][..], &["volumeAttributesClassName"]] {
            after.remove(path);
            before.remove(path);
        }
        if after == before {
            return Vec::new();
        }
        let detail =
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        vec![forbidden("spec", detail)]
    }
}
