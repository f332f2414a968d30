//! Network configurations: lists of plug-ins, read from JSON and picked from a directory as upstream's runtimes do.

use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// The versions of the specification whose results and rules are known here.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// Bytes of a configuration, plug-ins in a list, files looked at in a directory.
const BYTES_MAX: u64 = 1 << 20;
const PLUGINS_MAX: usize = 32;
const FILES_MAX: usize = 1000;

/// One plug-in of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Plugin {
    /// The name of its program.
    pub kind: String,
    /// Its configuration as written.
    pub body: Map<String, Value>,
}

/// A network: the plug-ins that make a pod's attachment, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkList {
    /// Its name.
    pub name: String,
    /// The version of the specification that it is written for.
    pub version: String,
    /// The plug-ins.
    pub plugins: Vec<Plugin>,
}

fn plugin(value: &Value) -> Result<Plugin, String> {
    let body = value.as_object().ok_or("error parsing configuration: it is no object")?;
    let kind = body.get("type").and_then(Value::as_str).filter(|kind| !kind.is_empty());
    let kind = kind.ok_or("error parsing configuration: missing 'type'")?;
    // The name of a program in the plug-ins' directories, never a way out of them.
    if kind.contains('/') || kind.contains('\0') || kind == "." || kind == ".." {
        return Err(format!("invalid plugin name: {kind:?}"));
    }
    Ok(Plugin { kind: kind.to_owned(), body: body.clone() })
}

impl NetworkList {
    /// Reads a list (`.conflist`), or a single plug-in's configuration as a list of one.
    ///
    /// # Errors
    /// What is wrong with it, in libcni's words.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let value: Value =
            serde_json::from_slice(bytes).map_err(|error| format!("error parsing configuration list: {error}"))?;
        Self::from_value(&value)
    }

    /// As [`NetworkList::parse`], from JSON that is read already.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_value(value: &Value) -> Result<Self, String> {
        let whole = value.as_object().ok_or("error parsing configuration list: it is no object")?;
        let text = |name: &str| whole.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let name = text("name").ok_or("error parsing configuration list: no name")?;
        if !is_identifier(name) {
            return Err(format!("error parsing configuration list: invalid network name {name:?}"));
        }
        let version = text("cniVersion").unwrap_or("0.1.0");
        if !VERSIONS.contains(&version) {
            return Err(format!("cniVersion {version} is not supported; one of {} is", VERSIONS.join(", ")));
        }
        let plugins = match whole.get("plugins") {
            Some(Value::Array(list)) if list.is_empty() => {
                return Err("error parsing configuration list: no plugins in list".to_owned());
            }
            Some(Value::Array(list)) if list.len() > PLUGINS_MAX => {
                return Err(format!("error parsing configuration list: more than {PLUGINS_MAX} plugins"));
            }
            Some(Value::Array(list)) => list.iter().map(plugin).collect::<Result<_, _>>()?,
            Some(_) => return Err("error parsing configuration list: 'plugins' is no list".to_owned()),
            None if whole.contains_key("type") => vec![plugin(value)?],
            None => return Err("error parsing configuration list: no 'plugins' key".to_owned()),
        };
        Ok(Self { name: name.to_owned(), version: version.to_owned(), plugins })
    }

    /// The list as JSON, for the record of an attachment.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let plugins: Vec<Value> = self.plugins.iter().map(|plugin| Value::Object(plugin.body.clone())).collect();
        serde_json::json!({"cniVersion": self.version, "name": self.name, "plugins": plugins})
    }

    /// Whether plug-ins expect the result of ADD when they delete (from 0.4.0).
    #[must_use]
    pub fn tells_result_on_delete(&self) -> bool {
        !self.version.starts_with("0.3.")
    }

    /// What a plug-in of the list gets on its standard input.
    #[must_use]
    pub fn input(&self, plugin: &Plugin, capabilities: &BTreeMap<String, Value>, previous: Option<&Value>) -> Vec<u8> {
        let mut body = plugin.body.clone();
        body.insert("name".to_owned(), Value::from(self.name.as_str()));
        body.insert("cniVersion".to_owned(), Value::from(self.version.as_str()));
        let wanted = plugin.body.get("capabilities").and_then(Value::as_object);
        let given: Map<String, Value> = capabilities
            .iter()
            .filter(|(name, _)| wanted.and_then(|wanted| wanted.get(*name)).is_some_and(|value| value == true))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if !given.is_empty() {
            body.insert("runtimeConfig".to_owned(), Value::Object(given));
        }
        if let Some(previous) = previous {
            body.insert("prevResult".to_owned(), previous.clone());
        }
        Value::Object(body).to_string().into_bytes()
    }
}

/// Letters, digits, '_', '.' and '-', the first of them a letter or digit: names of networks and ids of containers.
pub(super) fn is_identifier(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.len() <= 253
        && text.chars().all(|one| one.is_ascii_alphanumeric() || matches!(one, '_' | '.' | '-'))
}

/// The network of a node: the first file by name, of `.conf`, `.conflist` and `.json`, that can be read.
///
/// # Errors
/// Why there is none: all that is wrong with what is there.
pub(super) fn load(directory: &Path) -> Result<NetworkList, String> {
    let shown = directory.display();
    let entries = std::fs::read_dir(directory).map_err(|error| format!("{shown}: {error}"))?;
    let endings = ["conf", "conflist", "json"].map(|ending| Some(std::ffi::OsStr::new(ending)));
    let mut paths: Vec<_> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| endings.contains(&path.extension()))
        .take(FILES_MAX)
        .collect();
    paths.sort();
    let mut wrong = Vec::new();
    for path in &paths {
        let read = || -> Result<NetworkList, String> {
            let length = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
            if length > BYTES_MAX {
                return Err(format!("{length} bytes, where {BYTES_MAX} are the most"));
            }
            NetworkList::parse(&std::fs::read(path).map_err(|error| error.to_string())?)
        };
        match read() {
            Ok(list) => return Ok(list),
            Err(why) => wrong.push(format!("{}: {why}", path.display())),
        }
    }
    match wrong.is_empty() {
        true => Err(format!("no network config found in {shown}")),
        false => Err(format!("no valid network config found in {shown}: {}", wrong.join("; "))),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;
    use serde_json::json;

    #[test]
    fn lists_and_single_configurations_are_read_or_refused() {
        for (text, wanted) in [
            (r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge"},{"type":"portmap"}]}"#, Ok(2)),
            (r#"{"cniVersion":"0.4.0","name":"n","type":"ptp","mtu":1400}"#, Ok(1)),
            (r#"{"cniVersion":"1.0.0","plugins":[{"type":"bridge"}]}"#, Err("no name")),
            (r#"{"cniVersion":"1.0.0","name":"a/b","plugins":[{"type":"bridge"}]}"#, Err("invalid network name")),
            (r#"{"cniVersion":"1.0.0","name":"n"}"#, Err("no 'plugins' key")),
            (r#"{"cniVersion":"1.0.0","name":"n","plugins":[]}"#, Err("no plugins in list")),
            (r#"{"cniVersion":"1.0.0","name":"n","plugins":7}"#, Err("'plugins' is no list")),
            (r#"{"cniVersion":"1.0.0","name":"n","plugins":[{}]}"#, Err("missing 'type'")),
            (r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"../sh"}]}"#, Err("invalid plugin name")),
            (r#"{"cniVersion":"9.0.0","name":"n","plugins":[{"type":"bridge"}]}"#, Err("cniVersion 9.0.0 is not")),
            (r#"{"name":"n","type":"bridge"}"#, Err("cniVersion 0.1.0 is not")),
            ("[]", Err("it is no object")),
            ("{", Err("error parsing configuration list")),
        ] {
            match (NetworkList::parse(text.as_bytes()), wanted) {
                (Ok(list), Ok(count)) => assert_eq!(list.plugins.len(), count, "{text}"),
                (Err(why), Err(part)) => assert!(why.contains(part), "{text}: {why}"),
                (found, wanted) => panic!("{text}: {found:?}, wanted {wanted:?}"),
            }
        }
    }

    #[test]
    fn plugins_get_what_they_ask_for() {
        let list = NetworkList::parse(
            br#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"a"},{"type":"b","capabilities":{"portMappings":true,"bandwidth":false}}]}"#,
        )
        .unwrap();
        let capabilities =
            BTreeMap::from([("portMappings".to_owned(), json!([1])), ("bandwidth".to_owned(), json!({}))]);
        let input = |index: usize, previous: Option<&Value>| -> Value {
            serde_json::from_slice(&list.input(&list.plugins[index], &capabilities, previous)).unwrap()
        };
        assert_eq!(input(0, None), json!({"type": "a", "name": "n", "cniVersion": "1.0.0"}));
        let second = input(1, Some(&json!({"ips": []})));
        assert_eq!(second["runtimeConfig"], json!({"portMappings": [1]}));
        assert_eq!(second["prevResult"], json!({"ips": []}));
        assert_eq!(NetworkList::from_value(&list.to_value()).unwrap(), list);
    }

    #[test]
    fn the_first_file_that_can_be_read_counts() {
        let directory = tempfile::tempdir().unwrap();
        assert!(load(&directory.path().join("absent")).unwrap_err().contains("No such file"));
        assert!(load(directory.path()).unwrap_err().starts_with("no network config found"));
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        write("00-readme.txt", "{}");
        write("05-broken.conf", "{");
        assert!(load(directory.path()).unwrap_err().contains("05-broken.conf"));
        write("20-second.conflist", r#"{"cniVersion":"1.0.0","name":"second","plugins":[{"type":"a"}]}"#);
        write("10-first.json", r#"{"cniVersion":"1.0.0","name":"first","type":"a"}"#);
        assert_eq!(load(directory.path()).unwrap().name, "first");
    }
}
