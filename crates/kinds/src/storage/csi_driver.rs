//! CSIDriver: a storage driver.

use crate::Hooks;
use crate::Resource;
use crate::cells;
use crate::edit::{default_to, items};
use object::Value;
use object::table::Column;

/// The row of CSIDriver.
pub(super) fn row() -> Resource {
    Resource::new("storage.k8s.io", "v1", "CSIDriver", "csidrivers")
        .cluster()
        .with_columns(columns())
        .with_hooks(CsiDriver)
}

fn columns() -> Vec<Column> {
    vec![
        Column::name(),
        Column::new("AttachRequired", |driver, _| {
            Value::Bool(driver.at(&["spec", "attachRequired"]).and_then(Value::as_bool).unwrap_or(true))
        })
        .of("boolean"),
        Column::new("PodInfoOnMount", |driver, _| Value::Bool(cells::flag(driver, &["spec", "podInfoOnMount"])))
            .of("boolean"),
        Column::new("StorageCapacity", |driver, _| Value::Bool(cells::flag(driver, &["spec", "storageCapacity"])))
            .of("boolean"),
        Column::new("TokenRequests", |driver, _| {
            let audience = |one: &Value| one.str_at(&["audience"]).unwrap_or_default().to_owned();
            match driver.at(&["spec", "tokenRequests"]) {
                None | Some(Value::Null) => "<unset>".into(),
                Some(_) => {
                    items(driver, &["spec", "tokenRequests"]).iter().map(audience).collect::<Vec<_>>().join(",").into()
                }
            }
        }),
        Column::new("RequiresRepublish", |driver, _| Value::Bool(cells::flag(driver, &["spec", "requiresRepublish"])))
            .of("boolean"),
        Column::new("Modes", |driver, _| {
            let all: Vec<&str> =
                items(driver, &["spec", "volumeLifecycleModes"]).iter().filter_map(Value::as_str).collect();
            if all.is_empty() { "<none>".into() } else { all.join(",").into() }
        }),
        Column::age(),
    ]
}

struct CsiDriver;

impl Hooks for CsiDriver {
    fn default(&self, driver: &mut Value) {
        default_to(driver, &["spec", "attachRequired"], true);
        default_to(driver, &["spec", "podInfoOnMount"], false);
        default_to(driver, &["spec", "storageCapacity"], false);
        default_to(driver, &["spec", "fsGroupPolicy"], "ReadWriteOnceWithFSType");
        default_to(driver, &["spec", "requiresRepublish"], false);
        default_to(driver, &["spec", "seLinuxMount"], false);
        if items(driver, &["spec", "volumeLifecycleModes"]).is_empty() {
            driver.set(&["spec", "volumeLifecycleModes"], Value::Array(vec!["Persistent".into()]));
        }
    }
}
