//! Reads list types and merge keys from upstream's published OpenAPI v2 document.

use super::draft::Draft;
use serde_json::Value;
use std::io::Read;
use std::path::Path;

/// Adds the document's markers to the definitions it shares with the draft.
pub(super) fn read(path: &Path, draft: &mut Draft) -> Result<(), String> {
    let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut text = Vec::new();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        flate2::read::GzDecoder::new(&bytes[..])
            .read_to_end(&mut text)
            .map_err(|error| format!("{}: {error}", path.display()))?;
    } else {
        text = bytes;
    }
    let document: Value = serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    for (name, schema) in document["definitions"].as_object().into_iter().flatten() {
        let Some(definition) = draft.definitions.get_mut(name) else { continue };
        definition.known_in_swagger = true;
        definition.atomic |= schema["x-kubernetes-map-type"] == "atomic";
        // The bindings' own idea of required also names what Rust has no Option for.
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (name, facts) in &mut definition.fields {
            facts.required = required.contains(&name.as_str());
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let Some(facts) = definition.fields.get_mut(name) else { continue };
            let keys: Vec<&str> = property["x-kubernetes-list-map-keys"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            let list = property["x-kubernetes-list-type"].as_str().or(property["x-kubernetes-map-type"].as_str());
            facts.list = match list {
                Some("map") => Some(format!("map:{}", keys.join(","))),
                other => other.map(str::to_owned),
            };
            facts.patch_strategy = property["x-kubernetes-patch-strategy"].as_str().unwrap_or_default().to_owned();
            facts.patch_key = property["x-kubernetes-patch-merge-key"].as_str().map(str::to_owned);
        }
    }
    for definition in draft.definitions.values_mut().filter(|definition| !definition.known_in_swagger) {
        if let Some(metadata) = definition.fields.get_mut("metadata") {
            metadata.required = false;
        }
    }
    Ok(())
}
