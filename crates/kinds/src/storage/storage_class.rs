//! StorageClass: how volumes are provisioned.

use crate::Hooks;
use crate::Resource;
use crate::cells;
use crate::edit::default_to;
use crate::validation::{forbidden, has_text, immutable, one_of, required};
use object::table::Column;
use object::{Cause, Value};

/// The row of StorageClass.
pub(super) fn row() -> Resource {
    Resource::new("storage.k8s.io", "v1", "StorageClass", "storageclasses")
        .cluster()
        .short(&["sc"])
        .creatable_by_update()
        .with_columns(vec![
            Column::new("Name", |class, _| {
                let name = object::meta::name(class);
                let default = object::meta::annotation(class, object::meta::annotations::DEFAULT_STORAGE_CLASS);
                if default == Some("true") { format!("{name} (default)").into() } else { name.into() }
            }),
            Column::new("Provisioner", |class, _| cells::text(class, &["provisioner"])),
            Column::new("ReclaimPolicy", |class, _| cells::text_or(class, &["reclaimPolicy"], "Delete")),
            Column::new("VolumeBindingMode", |class, _| cells::text_or(class, &["volumeBindingMode"], "Immediate")),
            Column::new("AllowVolumeExpansion", |class, _| Value::Bool(cells::flag(class, &["allowVolumeExpansion"]))),
            Column::age(),
        ])
        .with_hooks(StorageClass)
}

struct StorageClass;

impl Hooks for StorageClass {
    fn default(&self, class: &mut Value) {
        default_to(class, &["reclaimPolicy"], "Delete");
        default_to(class, &["volumeBindingMode"], "Immediate");
    }

    fn validate(&self, class: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        if !has_text(class, &["provisioner"]) {
            causes.push(required("provisioner", ""));
        }
        one_of(&mut causes, class, &["reclaimPolicy"], "reclaimPolicy", &["Delete", "Retain"]);
        let modes = ["Immediate", "WaitForFirstConsumer"];
        one_of(&mut causes, class, &["volumeBindingMode"], "volumeBindingMode", &modes);
        causes
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        for (name, detail) in [
            ("parameters", "updates to parameters are forbidden."),
            ("provisioner", "updates to provisioner are forbidden."),
            ("reclaimPolicy", "updates to reclaimPolicy are forbidden."),
        ] {
            if new.get(name) != old.get(name) {
                causes.push(forbidden(name, detail));
            }
        }
        immutable(&mut causes, new, old, &["volumeBindingMode"]);
        causes
    }
}
