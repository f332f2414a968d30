//! Label and field selectors over stored objects.

use crate::core::{Row, Scope, decoded};
use object::selector::{fields, labels};
use object::{Status, Value, meta};
use store::Entry;

/// What a list, a watch or a deletecollection selects.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    labels: Option<labels::Selector>,
    fields: Option<fields::Selector>,
    /// The only name that can match, where the field selector says so.
    pub(crate) name: Option<String>,
    /// The only namespace that can match, where the field selector says so.
    pub(crate) namespace: Option<String>,
}

impl Selection {
    /// Reads both selectors; 400 for what the kind does not offer.
    pub(crate) fn parse(scope: &Scope<'_>, label_text: &str, field_text: &str) -> Result<Self, Status> {
        let mut selection = Selection::default();
        if !label_text.is_empty() {
            let parsed = labels::Selector::parse(label_text).map_err(|error| Status::bad_request(error.to_string()))?;
            selection.labels = Some(parsed).filter(|selector| !selector.is_everything());
        }
        if !field_text.is_empty() {
            let parsed = fields::Selector::parse(field_text).map_err(|error| Status::bad_request(error.to_string()))?;
            for requirement in parsed.requirements() {
                if !scope.row.is_selectable(&requirement.field) {
                    let field = &requirement.field;
                    // Kinds with fields of their own are worded otherwise than those with upstream's two.
                    let message = if scope.row.selectable_fields.is_empty() {
                        format!(
                            "{:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
                            field.as_str()
                        )
                    } else {
                        format!("field label not supported: {field}")
                    };
                    return Err(Status::bad_request(message));
                }
            }
            selection.name = parsed.exact("metadata.name").map(str::to_owned);
            selection.namespace = parsed.exact("metadata.namespace").map(str::to_owned);
            selection.fields = Some(parsed).filter(|selector| !selector.is_everything());
        }
        Ok(selection)
    }

    /// True where nothing has to be looked at.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_none() && self.fields.is_none()
    }

    /// Whether a hub object is selected.
    pub(crate) fn matches(&self, row: &Row, object: &Value) -> bool {
        self.labels.as_ref().is_none_or(|selector| selector.matches_labels(meta::labels(object)))
            && self.fields.as_ref().is_none_or(|selector| selector.matches(|field| row.field(object, field)))
    }

    /// Whether an entry is selected; decodes it only where a selector asks.
    pub(crate) fn matches_entry(&self, row: &Row, entry: &Entry) -> bool {
        self.is_everything() || self.matches(row, &decoded(entry))
    }
}
