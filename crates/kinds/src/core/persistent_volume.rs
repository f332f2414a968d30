//! PersistentVolume: a piece of storage.

use crate::Hooks;
use crate::Resource;
use crate::cells::{text, text_or};
use crate::edit::default_to;
use crate::validation::{has_text, one_of, required};
use object::table::Column;
use object::{Cause, Value};

/// The row of PersistentVolume.
pub(super) fn row() -> Resource {
    Resource::new("", "v1", "PersistentVolume", "persistentvolumes")
        .cluster()
        .short(&["pv"])
        .status()
        .with_columns(columns())
        .with_hooks(PersistentVolume)
}

fn columns() -> Vec<Column> {
    vec![
        Column::name(),
        Column::new("Capacity", |volume, _| text_or(volume, &["spec", "capacity", "storage"], "0")),
        Column::new("Access Modes", |volume, _| super::access_modes::short(volume, &["spec", "accessModes"]).into()),
        Column::new("Reclaim Policy", |volume, _| text(volume, &["spec", "persistentVolumeReclaimPolicy"])),
        Column::new("Status", |volume, _| super::access_modes::phase(volume)),
        Column::new("Claim", |volume, _| match volume.at(&["spec", "claimRef"]) {
            Some(claim) => {
                let part = |name: &str| claim.str_at(&[name]).unwrap_or_default();
                format!("{}/{}", part("namespace"), part("name")).into()
            }
            None => "".into(),
        }),
        Column::new("StorageClass", |volume, _| text(volume, &["spec", "storageClassName"])),
        Column::new("VolumeAttributesClass", |volume, _| {
            text_or(volume, &["spec", "volumeAttributesClassName"], "<unset>")
        }),
        Column::new("Reason", |volume, _| text(volume, &["status", "reason"])),
        Column::age(),
        Column::new("VolumeMode", |volume, _| text_or(volume, &["spec", "volumeMode"], "<unset>")).wide(),
    ]
}

struct PersistentVolume;

impl Hooks for PersistentVolume {
    fn default(&self, volume: &mut Value) {
        default_to(volume, &["spec", "persistentVolumeReclaimPolicy"], "Retain");
        default_to(volume, &["spec", "volumeMode"], "Filesystem");
    }

    fn prepare_create(&self, volume: &mut Value) {
        volume.set(&["status"], crate::edit::empty());
        volume.set(&["status", "phase"], "Pending".into());
    }

    fn validate(&self, volume: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        super::access_modes::validate(volume, &mut causes);
        if !has_text(volume, &["spec", "capacity", "storage"]) {
            causes.push(required("spec.capacity", ""));
        }
        let policies = ["Delete", "Recycle", "Retain"];
        let field = "spec.persistentVolumeReclaimPolicy";
        one_of(&mut causes, volume, &["spec", "persistentVolumeReclaimPolicy"], field, &policies);
        one_of(&mut causes, volume, &["spec", "volumeMode"], "spec.volumeMode", &["Block", "Filesystem"]);
        causes
    }
}
