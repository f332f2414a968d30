//! Gathers the descriptions that `kubectl explain` shows from k8s-openapi into one compressed blob.
//!
//! Format, before compression: for each definition a line `=NAME`, a line with its description, then for each described
//! member a line with its name and a line with its description. Line feeds inside are written `\\n`, backslashes `\\\\`.

use k8s_openapi::schemars::{JsonSchema, SchemaGenerator};
use std::io::Write as _;

fn visit<T: JsonSchema>(generator: &mut SchemaGenerator) {
    generator.subschema_for::<T>();
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=schema/bindings.inc");
    let mut generator = SchemaGenerator::default();
    include!("schema/bindings.inc");
    let mut text = String::new();
    for (name, schema) in generator.definitions() {
        let description = |schema: &serde_json::Value| escaped(schema["description"].as_str().unwrap_or_default());
        text.push_str(&format!("={name}\n{}\n", description(schema)));
        for (member, schema) in schema["properties"].as_object().into_iter().flatten() {
            text.push_str(&format!("{member}\n{}\n", description(schema)));
        }
    }
    let path = std::path::Path::new(&std::env::var("OUT_DIR")?).join("descriptions.deflate");
    let mut encoder = flate2::write::DeflateEncoder::new(std::fs::File::create(path)?, flate2::Compression::best());
    encoder.write_all(text.as_bytes())?;
    encoder.finish()?;
    Ok(())
}
