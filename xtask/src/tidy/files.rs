//! Rules on single files: size, a first comment with the purpose, banned words.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// More lines than this in one source file are refused; aim at 500.
const LINES_MAX: usize = 800;

/// Words that may not stand in source code, each with its reason.
const BANNED: &[(&str, &str)] = &[
    ("todo!(", "unfinished work is named where the user meets it, not left as a panic"),
    ("unimplemented!(", "unfinished work is named where the user meets it, not left as a panic"),
    ("FIXME", "mend it or file it"),
    ("#[allow(", "#[expect(..., reason = ...)] tells when it is no longer needed"),
];

/// Findings about files under version control.
pub(super) fn check(root: &Path) -> Result<Vec<String>, String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(root)
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .output();
    let output = output.map_err(|error| format!("git ls-files: {error}"))?;
    let names = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut findings = Vec::new();
    for name in names.split('\0').filter(|name| name.ends_with(".rs")) {
        let path: PathBuf = root.join(name);
        let Ok(text) = fs::read_to_string(&path) else { continue }; // deleted, not yet committed
        let lines = text.lines().count();
        if lines > LINES_MAX {
            findings.push(format!("{name}: {lines} lines, at most {LINES_MAX}: split it by purpose"));
        }
        if !text.trim_start().starts_with("//!") {
            findings.push(format!("{name}: the first comment (//!) must state the file's one purpose"));
        }
        if name.starts_with("xtask/src/tidy/") {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            for (word, reason) in BANNED.iter().filter(|(word, _)| line.contains(word)) {
                findings.push(format!("{name}:{}: {word}: {reason}", number + 1));
            }
        }
    }
    Ok(findings)
}
