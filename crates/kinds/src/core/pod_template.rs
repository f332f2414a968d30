//! PodTemplate: a stored pod template.

use crate::Hooks;
use crate::Resource;
use crate::cells;
use crate::template;
use object::table::Column;
use object::{Cause, Value};

/// The row of PodTemplate.
pub(super) fn row() -> Resource {
    Resource::new("", "v1", "PodTemplate", "podtemplates")
        .generation(&["template"])
        .with_columns(vec![
            Column::name(),
            Column::new("Containers", |one, _| cells::containers_at(one, &["template", "spec", "containers"], "name")),
            Column::new("Images", |one, _| cells::containers_at(one, &["template", "spec", "containers"], "image")),
            Column::new("Pod Labels", |one, _| cells::labels_at(one, &["template", "metadata", "labels"])),
        ])
        .with_hooks(PodTemplate)
}

struct PodTemplate;

impl Hooks for PodTemplate {
    fn default(&self, object: &mut Value) {
        template::default_template(object, &["template"]);
    }

    fn validate(&self, object: &Value) -> Vec<Cause> {
        template::validate_template_at(object, &["template"], &["Always", "OnFailure", "Never"])
    }
}
