//! Applies the hand-written corrections: same notation as the data file, merged member by member.

use super::draft::{Draft, Facts};

/// Merges `text` into the draft.
pub(super) fn apply(text: &str, draft: &mut Draft) -> Result<(), String> {
    let mut current: Option<String> = None;
    for (at, line) in text.lines().enumerate() {
        let line = line.trim_end();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |what: &str| format!("line {}: {what}: {line}", at + 1);
        if let Some(rest) = line.strip_prefix('=') {
            let mut words = rest.split(' ');
            let name = words.next().unwrap_or_default().to_owned();
            let definition = draft.definitions.entry(name.clone()).or_default();
            for word in words {
                match word.split_once('=') {
                    Some(("k", kind)) => {
                        let parts: Vec<&str> = kind.split('/').collect();
                        let [group, version, kind] = parts.as_slice() else {
                            return Err(wrong("a kind needs three parts"));
                        };
                        definition.kinds.push(((*group).into(), (*version).into(), (*kind).into()));
                    }
                    None if word == "atomic" => definition.atomic = true,
                    _ => return Err(wrong("unknown word")),
                }
            }
            current = Some(name);
            continue;
        }
        let Some(definition) = current.as_ref().and_then(|name| draft.definitions.get_mut(name)) else {
            return Err(wrong("a field before the first definition"));
        };
        let (line_facts, default) = line.split_once(" D=").map_or((line, None), |(facts, json)| (facts, Some(json)));
        let mut words = line_facts.split(' ');
        let name = words.next().unwrap_or_default();
        let facts = definition.fields.entry(if name == "~" { String::new() } else { name.to_owned() });
        let known = matches!(facts, std::collections::btree_map::Entry::Occupied(_));
        let facts = facts.or_insert_with(Facts::default);
        for word in words {
            match word.as_bytes() {
                [b'0'..=b'9', ..] => facts.number = Some(word.parse().map_err(|_| wrong("not a number"))?),
                b"!" => facts.required = true,
                b"+" => facts.keep = Some(true),
                b"-" => facts.keep = Some(false),
                [b'L', b'=', ..] => facts.list = Some(word[2..].to_owned()),
                [b'P', b'=', ..] => {
                    let (strategy, key) = word[2..].split_once(':').unwrap_or((&word[2..], ""));
                    facts.patch_strategy = strategy.to_owned();
                    facts.patch_key = (!key.is_empty()).then(|| key.to_owned());
                }
                _ => facts.kind = word.to_owned(),
            }
        }
        if let Some(json) = default {
            serde_json::from_str::<serde_json::Value>(json).map_err(|error| wrong(&error.to_string()))?;
            facts.default = Some(json.to_owned());
        }
        if facts.kind.is_empty() {
            return Err(wrong(if known {
                "a member without a type"
            } else {
                "no such member, and no type to make one"
            }));
        }
    }
    Ok(())
}
