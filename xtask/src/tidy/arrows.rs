//! Arrows between rooms point inwards, and pure rooms stay pure.

use cargo_metadata::{DependencyKind, MetadataCommand};
use std::path::Path;

/// What each room may import of the others. A room that is not listed may not exist.
const ARROWS: &[(&str, &[&str])] = &[
    ("object", &[]),
    ("kinds", &["object"]),
    ("scheduler", &["object", "kinds"]),
    ("controllers", &["object", "kinds", "scheduler"]),
    ("store", &["object"]),
    ("dial", &[]),
    ("client", &["object", "dial"]),
    ("api", &["object", "kinds", "store", "client"]),
    ("control-loop", &["object", "kinds", "client", "controllers", "scheduler"]),
    ("runtime", &["object", "dial"]),
    ("network", &["object"]),
    ("node", &["object", "client", "runtime", "network"]),
    (
        "klynge",
        &[
            "object",
            "kinds",
            "store",
            "client",
            "api",
            "control-loop",
            "runtime",
            "network",
            "node",
            "controllers",
            "scheduler",
        ],
    ),
];

/// Rooms without I/O.
const PURE: &[&str] = &["object", "kinds", "scheduler", "controllers"];

/// Crates that mean I/O, time or randomness.
const IMPURE: &[&str] = &[
    "tokio",
    "hyper",
    "hyper-util",
    "rustix",
    "libc",
    "nix",
    "getrandom",
    "rand",
    "tracing-subscriber",
    "socket2",
    "mio",
];

/// Findings about dependencies between crates.
pub(super) fn check(root: &Path) -> Result<Vec<String>, String> {
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .other_options(vec!["--offline".to_owned()])
        .exec()
        .map_err(|error| format!("cargo metadata: {error}"))?;
    let mut findings = Vec::new();
    for package in &metadata.packages {
        let name = package.name.as_str();
        let Some(room) = name.strip_prefix("klynge-").or(Some(name).filter(|name| *name == "klynge")) else { continue };
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == room) else {
            findings.push(format!("crates/{room}: a new room needs its arrows in xtask/src/tidy/arrows.rs"));
            continue;
        };
        for dependency in package.dependencies.iter().filter(|one| one.kind == DependencyKind::Normal) {
            if let Some(other) = dependency.name.strip_prefix("klynge-") {
                if !allowed.contains(&other) {
                    findings.push(format!("crates/{room} imports {other}: this arrow is not in ARCHITECTURE.md"));
                }
            } else if PURE.contains(&room) && IMPURE.contains(&dependency.name.as_str()) {
                findings.push(format!("crates/{room} is pure, {} is not", dependency.name));
            }
        }
    }
    Ok(findings)
}
