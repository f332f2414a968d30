//! Reads field numbers from the sources of k8s-pb, which prost generated from upstream's .proto files.

use super::draft::{Draft, Key, MessageField, plain};
use std::path::Path;

/// Reads all messages below `root`.
pub(super) fn read(root: &Path, draft: &mut Draft) -> Result<(), String> {
    walk(root, "", draft)
}

fn walk(directory: &Path, relative: &str, draft: &mut Draft) -> Result<(), String> {
    let entries = std::fs::read_dir(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    for entry in entries {
        let path = entry.map_err(|error| error.to_string())?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            let below = if relative.is_empty() { name } else { format!("{relative}/{name}") };
            walk(&path, &below, draft)?;
        } else if name == "mod.rs" {
            let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            read_file(&text, relative, draft);
        }
    }
    Ok(())
}

fn read_file(text: &str, directory: &str, draft: &mut Draft) {
    let mut message: Option<Key> = None;
    let mut attribute = String::new();
    let mut pending = String::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
        if let Some(rest) = line.strip_prefix("pub struct ") {
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric()).collect();
            let key = (directory.to_owned(), plain(&name));
            draft.messages.entry(key.clone()).or_default();
            message = Some(key);
        } else if line.starts_with("#[prost(") {
            attribute = line.to_owned();
        } else if !attribute.is_empty() && (line.starts_with("pub ") || !pending.is_empty()) {
            pending.push_str(line);
            // A field's type may run over several lines; it ends with a comma at depth 0.
            if pending.matches('<').count() != pending.matches('>').count() || !pending.ends_with(',') {
                continue;
            }
            let Some(key) = &message else { continue };
            if let Some((name, field)) = field(&attribute, &pending, directory)
                && let Some(fields) = draft.messages.get_mut(key)
            {
                fields.insert(name, field);
            }
            attribute.clear();
            pending.clear();
        }
    }
}

fn field(attribute: &str, declaration: &str, directory: &str) -> Option<(String, MessageField)> {
    let number = attribute.split("tag = \"").nth(1)?.split('"').next()?.parse().ok()?;
    let kind = attribute.strip_prefix("#[prost(")?.split([',', ' ']).next()?.to_owned();
    let (name, declared) = declaration.strip_prefix("pub ")?.split_once(':')?;
    let name = plain(name.trim().trim_start_matches("r#"));
    let inner = declared.rsplit(['<', ',']).find(|part| !part.trim().is_empty())?;
    let path: Vec<&str> = inner.trim().trim_matches(['>', ' ', ',']).split("::").collect();
    let target = (kind == "message").then(|| target(&path, directory));
    Some((name, MessageField { number, kind, target }))
}

fn target(path: &[&str], directory: &str) -> Key {
    let up = path.iter().take_while(|segment| **segment == "super").count();
    let mut way: Vec<&str> = directory.split('/').collect();
    way.truncate(way.len().saturating_sub(up));
    let (last, middle) = path[up..].split_last().map_or(("", &path[..0]), |(last, middle)| (*last, middle));
    way.extend(middle);
    (way.join("/"), plain(last))
}
