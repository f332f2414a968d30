//! Which images go when the disk fills: unused ones, the largest first, until the low mark. Pure.

use super::facts::Space;
use crate::agent::ImageOnNode;
use std::collections::BTreeSet;

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

/// The ids of images to remove; `used` are names and ids that pods refer to.
#[must_use]
pub fn images_to_remove(
    images: &[ImageOnNode],
    used: &BTreeSet<String>,
    space: Space,
    marks: ImageThresholds,
) -> Vec<String> {
    if space.used_percent() <= marks.high_percent {
        return Vec::new();
    }
    let in_use = space.total_bytes.saturating_sub(space.available_bytes);
    let aim = space.total_bytes.saturating_mul(marks.low_percent) / 100;
    let mut to_free = in_use.saturating_sub(aim);
    let mut unused: Vec<&ImageOnNode> = images
        .iter()
        .filter(|image| !used.contains(&image.id) && !image.names.iter().any(|name| used.contains(name)))
        .collect();
    unused.sort_by_key(|image| std::cmp::Reverse(image.size_bytes));
    let mut chosen = Vec::new();
    for image in unused {
        if to_free == 0 {
            break;
        }
        to_free = to_free.saturating_sub(image.size_bytes);
        chosen.push(image.id.clone());
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unused_images_go_and_no_more_than_needed() {
        let image =
            |id: &str, size_bytes: u64| ImageOnNode { id: id.into(), names: vec![format!("{id}:1")], size_bytes };
        let images = [image("a", 5), image("b", 30), image("c", 20), image("d", 50)];
        let used = BTreeSet::from(["d:1".to_owned()]);
        let space = |available_bytes: u64| Space { total_bytes: 200, available_bytes, ..Space::default() };
        let remove = |available: u64| images_to_remove(&images, &used, space(available), ImageThresholds::default());
        assert!(remove(30).is_empty(), "85 % is not above the mark");
        assert_eq!(remove(20), ["b"], "10 % are 20 bytes");
        assert_eq!(remove(0), ["b", "c"]);
    }
}
