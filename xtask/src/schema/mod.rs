//! Generates crates/kinds/schema/built_in.txt: the facts about the built-in kinds, gathered from four sources.
//!
//! - Names, types and required: the sources of k8s-openapi (the workspace's own version; found through cargo metadata).
//! - List types, map keys, merge keys: upstream's published OpenAPI v2 document.
//! - Numbers and embedding in protobuf: the sources of k8s-pb, then upstream's Go types where given.
//! - Whether Go keeps a zero value, and marked defaults: upstream's Go types where given.
//! - Everything newer than those, and static defaults: crates/kinds/schema/overlay.txt, written by hand.

mod bindings;
mod draft;
mod emit;
mod go_types;
mod messages;
mod overlay;
mod swagger;

use draft::Draft;
use std::path::PathBuf;

/// Where the sources are.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Upstream's swagger.json, gzipped or plain.
    #[arg(long)]
    swagger: PathBuf,
    /// The directory of the k8s-pb crate.
    #[arg(long)]
    messages: PathBuf,
    /// Roots of Go type sources, such as `api=DIR`, `apimachinery=DIR`; of several for one root the first has precedence.
    #[arg(long = "go-types", value_name = "ROOT=DIR")]
    go_types: Vec<String>,
    /// The directory of the k8s-openapi crate; the workspace's own version where absent.
    #[arg(long)]
    bindings: Option<PathBuf>,
    /// The version module of k8s-openapi.
    #[arg(long, default_value = "v1_37")]
    version: String,
    /// Also print the fields that no source gives a protobuf number for.
    #[arg(long)]
    report: bool,
}

/// Generates the data.
pub(crate) fn run(arguments: &Arguments) -> Result<(), String> {
    let metadata = cargo_metadata::MetadataCommand::new().exec().map_err(|error| format!("cargo metadata: {error}"))?;
    let bindings = match &arguments.bindings {
        Some(directory) => directory.clone(),
        None => metadata
            .packages
            .iter()
            .find(|package| package.name == "k8s-openapi")
            .and_then(|package| package.manifest_path.parent())
            .ok_or("the workspace does not depend on k8s-openapi")?
            .into(),
    };
    let output = metadata.workspace_root.as_std_path().join("crates/kinds/schema");
    let mut draft = Draft::default();
    bindings::read(&bindings.join("src").join(&arguments.version), &mut draft)?;
    swagger::read(&arguments.swagger, &mut draft)?;
    messages::read(&arguments.messages.join("src"), &mut draft)?;
    for root in &arguments.go_types {
        let (name, directory) = root.split_once('=').ok_or_else(|| format!("{root}: expected ROOT=DIR"))?;
        go_types::read(name, directory.as_ref(), &mut draft)?;
    }
    draft.resolve();
    let overlay_path = output.join("overlay.txt");
    let overlay_text = std::fs::read_to_string(&overlay_path).unwrap_or_default();
    overlay::apply(&overlay_text, &mut draft).map_err(|error| format!("{}: {error}", overlay_path.display()))?;
    if arguments.report {
        report(&draft);
    }
    let write = |name: &str, text: String| {
        let path = output.join(name);
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    };
    std::fs::create_dir_all(&output).map_err(|error| format!("{}: {error}", output.display()))?;
    write("built_in.txt", emit::data(&draft))?;
    write("bindings.inc", emit::bindings(&draft))
}

#[expect(clippy::print_stdout, reason = "the report is what was asked for")]
fn report(draft: &Draft) {
    for (name, definition) in &draft.definitions {
        for (field, facts) in &definition.fields {
            let top = matches!(field.as_str(), "apiVersion" | "kind") && !definition.kinds.is_empty();
            if facts.number.is_none() && !facts.embedded && !top && !field.is_empty() {
                println!("{name} {field} {}", facts.kind);
            }
        }
    }
}
