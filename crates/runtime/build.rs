//! Builds the shim: a static program without standard library, compiled by rustc itself and embedded in the agent.
//! It is no cargo target of its own because it needs other flags than the workspace has, and no C runtime.

use std::{env, path::PathBuf, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=shim");
    println!("cargo::rerun-if-changed=build.rs");
    if let Err(error) = build() {
        println!("cargo::error=cannot build the shim: {error}");
    }
}

fn build() -> Result<(), String> {
    let variable = |name: &str| env::var(name).map_err(|error| format!("{name}: {error}"));
    let output = PathBuf::from(variable("OUT_DIR")?).join("klynge-shim");
    let mut rustc = Command::new(variable("RUSTC")?);
    rustc.args(["--edition", "2024", "--crate-type", "bin", "--crate-name", "klynge_shim", "shim/main.rs"]);
    rustc.args(["--target", &variable("TARGET")?]).arg("-o").arg(&output);
    for option in [
        "panic=abort",
        "opt-level=s",
        "lto=fat",
        "codegen-units=1",
        "strip=symbols",
        "relocation-model=static",
        "link-arg=-nostartfiles",
        "link-arg=-nostdlib",
        "link-arg=-static",
        "link-arg=-no-pie",
        "link-arg=-Wl,--build-id=none",
        "link-arg=-Wl,-z,noseparate-code",
        "link-arg=-Wl,-z,max-page-size=4096",
    ] {
        rustc.args(["-C", option]);
    }
    let result = rustc.output().map_err(|error| format!("running rustc: {error}"))?;
    if !result.status.success() {
        return Err(String::from_utf8_lossy(&result.stderr).replace('\n', " | "));
    }
    Ok(())
}
