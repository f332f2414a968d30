//! Which images go when the disk fills: old and unused ones, the longest unused first, until the low mark. Pure.

use super::facts::Space;
use crate::agent::ImageOnNode;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// A younger image stays, as upstream: whoever brought it has had no time to use it.
const AGE_MIN: Duration = Duration::from_secs(120);

/// Upstream's marks, in percent of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageThresholds {
    /// Above this images are removed.
    pub high_percent: u64,
    /// Until this is reached.
    pub low_percent: u64,
}

impl Default for ImageThresholds {
    fn default() -> Self {
        Self { high_percent: 85, low_percent: 80 }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Known {
    /// None for never, as far as this agent has seen.
    last_used: Option<Instant>,
    /// None for an image that was there when the agent started.
    first_seen: Option<Instant>,
}

/// What the agent has seen of its images.
#[derive(Debug, Default)]
pub struct ImageHistory {
    known: BTreeMap<String, Known>,
    begun: bool,
}

/// What a collection does.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Collection {
    /// The ids of images to remove.
    pub images: Vec<String>,
    /// Bytes that have to be freed.
    pub wanted_bytes: u64,
    /// Bytes that these images free.
    pub found_bytes: u64,
}

fn in_use(image: &ImageOnNode, used: &BTreeSet<String>) -> bool {
    used.contains(&image.id) || image.names.iter().any(|name| used.contains(name))
}

impl ImageHistory {
    /// Takes note of what is there and used; `used` are names and ids that pods refer to.
    pub fn observe(&mut self, images: &[ImageOnNode], used: &BTreeSet<String>, now: Instant) {
        self.known.retain(|id, _| images.iter().any(|image| image.id == *id));
        let first_seen = self.begun.then_some(now);
        self.begun = true;
        for image in images {
            let known = self.known.entry(image.id.clone()).or_insert(Known { last_used: None, first_seen });
            if in_use(image, used) {
                known.last_used = Some(now);
            }
        }
    }

    /// What is to be removed of `images`.
    #[must_use]
    pub fn collect(
        &self,
        images: &[ImageOnNode],
        used: &BTreeSet<String>,
        space: Space,
        marks: ImageThresholds,
        now: Instant,
    ) -> Collection {
        if space.used_percent() <= marks.high_percent {
            return Collection::default();
        }
        let in_all = space.total_bytes.saturating_sub(space.available_bytes);
        let aim = space.total_bytes.saturating_mul(marks.low_percent) / 100;
        let wanted_bytes = in_all.saturating_sub(aim);
        let known = |image: &ImageOnNode| self.known.get(&image.id).copied().unwrap_or_default();
        let old = |image: &&ImageOnNode| {
            known(image).first_seen.is_none_or(|seen| now.saturating_duration_since(seen) >= AGE_MIN)
        };
        let mut candidates: Vec<&ImageOnNode> =
            images.iter().filter(|image| !in_use(image, used)).filter(old).collect();
        candidates.sort_by_key(|image| (known(image), image.id.clone()));
        let mut collection = Collection { wanted_bytes, ..Collection::default() };
        for image in candidates {
            if collection.found_bytes >= wanted_bytes {
                break;
            }
            collection.found_bytes = collection.found_bytes.saturating_add(image.size_bytes);
            collection.images.push(image.id.clone());
        }
        collection
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_old_unused_images_go_the_longest_unused_first_and_no_more_than_needed() {
        let image =
            |id: &str, size_bytes: u64| ImageOnNode { id: id.into(), names: vec![format!("{id}:1")], size_bytes };
        let mut images = vec![image("a", 5), image("b", 30), image("c", 20), image("d", 50)];
        let used = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<String>>();
        let space = |available_bytes: u64| Space { total_bytes: 200, available_bytes, ..Space::default() };
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let mut history = ImageHistory::default();
        history.observe(&images, &used(&["b:1", "d:1"]), at(0));
        images.push(image("new", 100));
        history.observe(&images, &used(&["a", "d:1"]), at(10));
        let remove = |available: u64, seconds: u64| {
            history.collect(&images, &used(&["d:1"]), space(available), ImageThresholds::default(), at(seconds)).images
        };
        assert!(remove(30, 20).is_empty(), "85 % is not above the mark");
        assert_eq!(remove(20, 20), ["c"], "10 % are 20 bytes");
        assert_eq!(remove(0, 20), ["c", "b"]);
        assert_eq!(remove(0, 130), ["c", "new"], "two minutes later the new one is old enough, and was never used");
        let short = history.collect(&images[..1], &used(&[]), space(0), ImageThresholds::default(), at(20));
        assert_eq!((short.wanted_bytes, short.found_bytes), (40, 5));
    }
}
