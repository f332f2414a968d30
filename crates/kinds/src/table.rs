//! The resource table: looked up by path and by kind; a changed copy is made when custom resources come and go.

use crate::{Resource, Version};
use object::{GroupVersionKind, GroupVersionResource, Str};
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

/// All kinds that are served. Cheap to copy: rows are shared.
#[derive(Clone, Default)]
pub struct Table {
    resources: Vec<Arc<Resource>>,
    by_resource: HashMap<GroupVersionResource, (usize, usize)>,
    by_kind: HashMap<GroupVersionKind, (usize, usize)>,
    groups: Vec<Group>,
}

/// A group as discovery shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Name; empty for core.
    pub name: Str,
    /// Served versions, the preferred one first.
    pub versions: Vec<Str>,
}

impl Table {
    /// A table of rows; their order is the order of groups and resources in discovery.
    #[must_use]
    pub fn new(resources: Vec<Arc<Resource>>) -> Self {
        let mut table = Table { resources, ..Table::default() };
        for (at, resource) in table.resources.iter().enumerate() {
            for (version_at, version) in resource.versions.iter().enumerate() {
                let names =
                    GroupVersionResource::new(resource.group.clone(), version.name.clone(), resource.plural.clone());
                table.by_resource.insert(names, (at, version_at));
                let kind = GroupVersionKind {
                    group: resource.group.clone(),
                    version: version.name.clone(),
                    kind: resource.kind.clone(),
                };
                table.by_kind.insert(kind, (at, version_at));
                match table.groups.iter_mut().find(|group| group.name == resource.group) {
                    Some(group) if group.versions.contains(&version.name) => {}
                    Some(group) => group.versions.push(version.name.clone()),
                    None => {
                        table.groups.push(Group { name: resource.group.clone(), versions: vec![version.name.clone()] })
                    }
                }
            }
        }
        table
    }

    /// A copy with one row more, or with the row of the same group and plural name replaced.
    #[must_use]
    pub fn with(&self, resource: Arc<Resource>) -> Self {
        let mut resources = self.resources.clone();
        let same = |one: &Arc<Resource>| one.group == resource.group && one.plural == resource.plural;
        match resources.iter().position(same) {
            Some(at) => resources[at] = resource,
            None => resources.push(resource),
        }
        Table::new(resources)
    }

    /// A copy without the row of a group and plural name.
    #[must_use]
    pub fn without(&self, group: &str, plural: &str) -> Self {
        let keep = |one: &&Arc<Resource>| one.group != group || one.plural != plural;
        Table::new(self.resources.iter().filter(keep).cloned().collect())
    }

    /// The row of a path's group, version and plural name.
    #[must_use]
    pub fn resource(&self, names: &GroupVersionResource) -> Option<&Resource> {
        self.by_resource.get(names).map(|(at, _)| self.resources[*at].as_ref())
    }

    /// The row and the version of a path's group, version and plural name.
    #[must_use]
    pub fn resource_version(&self, names: &GroupVersionResource) -> Option<(&Arc<Resource>, &Version)> {
        self.by_resource.get(names).map(|(at, version)| (&self.resources[*at], &self.resources[*at].versions[*version]))
    }

    /// The row of a kind.
    #[must_use]
    pub fn by_kind(&self, kind: &GroupVersionKind) -> Option<&Resource> {
        self.by_kind.get(kind).map(|(at, _)| self.resources[*at].as_ref())
    }

    /// The row and the version of a kind.
    #[must_use]
    pub fn kind_version(&self, kind: &GroupVersionKind) -> Option<(&Arc<Resource>, &Version)> {
        self.by_kind.get(kind).map(|(at, version)| (&self.resources[*at], &self.resources[*at].versions[*version]))
    }

    /// All rows, in discovery's order.
    #[must_use]
    pub fn resources(&self) -> &[Arc<Resource>] {
        &self.resources
    }

    /// All groups, in discovery's order; core comes first.
    #[must_use]
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }
}

/// The built-in kinds.
pub fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| Table::new(crate::rows::rows().into_iter().map(Arc::new).collect()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::expect_used, reason = "tests")]
    use super::table;
    use object::{GroupVersionKind, GroupVersionResource};

    #[test]
    fn a_row_is_found_by_path_and_by_kind_in_each_of_its_versions() {
        for version in ["v1", "v2"] {
            let names = GroupVersionResource::new("autoscaling", version, "horizontalpodautoscalers");
            let (row, found) = table().resource_version(&names).expect("the row");
            assert_eq!((row.kind.as_str(), found.name.as_str()), ("HorizontalPodAutoscaler", version));
            let kind = GroupVersionKind::parse(&format!("autoscaling/{version}"), "HorizontalPodAutoscaler");
            assert_eq!(table().by_kind(&kind).expect("the row").bucket, "horizontalpodautoscalers.autoscaling");
        }
        assert!(table().resource(&GroupVersionResource::new("", "v2", "pods")).is_none());
    }

    #[test]
    fn both_groups_of_events_share_a_bucket() {
        let core = table().resource(&GroupVersionResource::new("", "v1", "events")).expect("core events");
        let new = table().resource(&GroupVersionResource::new("events.k8s.io", "v1", "events")).expect("events.k8s.io");
        assert_eq!((core.bucket.as_str(), new.bucket.as_str()), ("events", "events"));
        assert_eq!(core.hub, new.hub);
        assert!(new.versions[0].convert_to_hub.is_some());
    }

    #[test]
    fn names_are_unique_and_short_names_too_within_a_group() {
        let mut seen = std::collections::HashSet::new();
        for row in table().resources() {
            assert!(seen.insert((row.group.clone(), row.plural.clone())), "{} twice", row.plural);
            for short in &row.short_names {
                assert!(seen.insert((row.group.clone(), short.clone())), "{short} twice");
            }
            assert!(row.verbs.is_sorted() && row.subresources.is_sorted_by(|a, b| a.name < b.name), "{}", row.plural);
        }
    }

    #[test]
    fn every_version_of_every_row_has_a_type_in_the_schema_data() {
        for row in table().resources() {
            for version in &row.versions {
                assert!(version.try_type_id().is_some(), "{}", version.definition);
            }
            for one in &row.subresources {
                let has_body = !one.kind.kind.ends_with("Options");
                assert!(!has_body || crate::type_id(&one.kind).is_some(), "{}/{}: {}", row.plural, one.name, one.kind);
            }
        }
    }

    #[test]
    fn a_row_comes_and_goes_at_run_time() {
        let row = crate::Resource::new("example.com", "v1", "Widget", "widgets");
        let names = GroupVersionResource::new("example.com", "v1", "widgets");
        let more = table().with(std::sync::Arc::new(row));
        assert!(more.resource(&names).is_some() && table().resource(&names).is_none());
        assert_eq!(more.groups().last().map(|group| group.name.as_str()), Some("example.com"));
        assert!(more.without("example.com", "widgets").resource(&names).is_none());
    }
}
