//! Reads upstream's Go type declarations: what JSON keeps, protobuf numbers, list markers, marked defaults.

use super::draft::{Draft, GoField, plain};
use std::path::Path;

/// Reads every types.go below `directory`, which stands for `root` (such as `api`).
pub(super) fn read(root: &str, directory: &Path, draft: &mut Draft) -> Result<(), String> {
    walk(root, directory, draft)
}

fn walk(relative: &str, directory: &Path, draft: &mut Draft) -> Result<(), String> {
    let entries = std::fs::read_dir(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    for entry in entries {
        let path = entry.map_err(|error| error.to_string())?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            walk(&format!("{relative}/{name}"), &path, draft)?;
        } else if name.starts_with("types") && name.ends_with(".go") && !name.contains("test") {
            let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            read_file(&text, &relative.replace('-', "_"), draft);
        }
    }
    Ok(())
}

#[derive(Default)]
struct Markers {
    list_type: String,
    keys: Vec<String>,
    map_type: String,
    default: Option<String>,
}

fn read_file(text: &str, directory: &str, draft: &mut Draft) {
    let mut current: Option<String> = None;
    let mut markers = Markers::default();
    for line in text.lines() {
        let trimmed = line.trim();
        if let Some(rest) = line.strip_prefix("type ") {
            current = rest.split_once(" struct {").map(|(name, _)| plain(name));
            markers = Markers::default();
        } else if line.starts_with('}') {
            current = None;
        } else if let Some(comment) = trimmed.strip_prefix("//") {
            read_marker(comment.trim(), &mut markers);
        } else if let Some(name) = &current
            && let Some((before, tags)) = trimmed.split_once('`')
        {
            let taken = std::mem::take(&mut markers);
            if let Some((json, field)) = read_field(before, tags, taken) {
                let key = (directory.to_owned(), name.clone());
                draft.go.entry(key).or_default().entry(json).or_insert(field);
            }
        }
    }
}

fn read_marker(comment: &str, markers: &mut Markers) {
    if let Some(value) = comment.strip_prefix("+listType=") {
        markers.list_type = value.to_owned();
    } else if let Some(value) = comment.strip_prefix("+listMapKey=") {
        markers.keys.push(value.to_owned());
    } else if let Some(value) = comment.strip_prefix("+mapType=").or_else(|| comment.strip_prefix("+structType=")) {
        markers.map_type = value.to_owned();
    } else if let Some(value) = comment.strip_prefix("+default=") {
        markers.default = Some(match value {
            "ref(AzureDataDiskCachingReadWrite)" => "\"ReadWrite\"".to_owned(),
            "ref(AzureSharedBlobDisk)" => "\"Shared\"".to_owned(),
            other => other.to_owned(),
        });
    }
}

fn tag<'a>(tags: &'a str, name: &str) -> Option<&'a str> {
    tags.split_once(&format!("{name}:\"")).and_then(|(_, rest)| rest.split_once('"')).map(|(value, _)| value)
}

fn read_field(before: &str, tags: &str, markers: Markers) -> Option<(String, GoField)> {
    let json = tag(tags, "json")?;
    let (name, options) = json.split_once(',').unwrap_or((json, ""));
    if name.is_empty() || name == "-" {
        return None;
    }
    let go_type = before.split_whitespace().nth(1).unwrap_or_default();
    let number = tag(tags, "protobuf").and_then(|text| text.split(',').nth(1)).and_then(|text| text.parse().ok());
    let list = match (markers.list_type.as_str(), markers.map_type.as_str()) {
        ("map", _) => Some(format!("map:{}", markers.keys.join(","))),
        ("", "") => None,
        ("", map_type) => Some(map_type.to_owned()),
        (list_type, _) => Some(list_type.to_owned()),
    };
    let field = GoField {
        keep: go_type.starts_with('*') || !options.contains("omitempty"),
        number,
        list,
        patch_strategy: tag(tags, "patchStrategy").unwrap_or_default().to_owned(),
        patch_key: tag(tags, "patchMergeKey").map(str::to_owned),
        // An empty default says no more than the type does.
        default: markers.default.filter(|text| !matches!(text.as_str(), "\"\"" | "0" | "false")),
    };
    Some((name.to_owned(), field))
}
