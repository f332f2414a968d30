//! The project's own rules, checked as a test: what clippy cannot see.

mod arrows;
mod files;

use std::path::{Path, PathBuf};

/// The workspace's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}

/// Checks everything and prints each finding.
pub(crate) fn run() -> Result<(), String> {
    let mut findings = arrows::check(&root())?;
    findings.extend(files::check(&root())?);
    if findings.is_empty() {
        return Ok(());
    }
    Err(format!("tidy found:\n  {}", findings.join("\n  ")))
}

#[cfg(test)]
mod tests {
    #[test]
    fn project_is_tidy() {
        if let Err(findings) = super::run() {
            panic!("{findings}");
        }
    }
}
