//! The texts that `kubectl explain` shows, compressed into the binary by the build script.

use std::collections::HashMap;
use std::io::Read as _;

static BLOB: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.deflate"));

/// Texts by definition and member, opened for the time a document is built.
pub(super) struct Descriptions {
    /// A definition's own text has the empty member.
    texts: HashMap<String, HashMap<String, String>>,
}

fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => out.push(if characters.next() == Some('n') { '\n' } else { '\\' }),
            other => out.push(other),
        }
    }
    out
}

impl Descriptions {
    /// Opens the texts; without them a document has everything but descriptions.
    pub(super) fn open() -> Self {
        let mut text = String::new();
        let mut texts: HashMap<String, HashMap<String, String>> = HashMap::new();
        if flate2::read::DeflateDecoder::new(BLOB).read_to_string(&mut text).is_err() {
            return Descriptions { texts };
        }
        let mut current = String::new();
        let mut lines = text.lines();
        while let (Some(name), Some(description)) = (lines.next(), lines.next()) {
            let member = match name.strip_prefix('=') {
                Some(definition) => {
                    definition.clone_into(&mut current);
                    ""
                }
                None => name,
            };
            if !description.is_empty() {
                texts.entry(current.clone()).or_default().insert(member.to_owned(), plain(description));
            }
        }
        Descriptions { texts }
    }

    /// The text of a definition's member; of the definition itself where `member` is empty.
    pub(super) fn get(&self, definition: &str, member: &str) -> Option<&str> {
        self.texts.get(definition)?.get(member).map(String::as_str)
    }
}
