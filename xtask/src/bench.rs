//! Benchmarks: each is a program that prints a table and, as its last line, one JSON object with the figures.

use serde_json::Value;
use std::process::{Command, Stdio};

/// A benchmark: its name in SPEC.md, its package and its example.
const BENCHMARKS: &[(&str, &str, &str)] = &[
    ("store", "klynge-store", "store_bench"),
    ("container", "klynge-runtime", "container_bench"),
    ("scheduler", "klynge-scheduler", "scheduler_bench"),
    ("services", "klynge-network", "services_bench"),
    ("policy", "klynge-network", "policy_bench"),
    ("dns", "klynge-network", "dns_bench"),
    ("network", "klynge-network", "network_bench"),
    ("api", "klynge-api", "bench_api"),
];

/// Benchmarks that need a running cluster: scripts beside the end-to-end tests.
const SCRIPTS: &[&str] = &["start", "idle", "pod-start", "join", "node-loss", "killed-pod"];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A name of SPEC.md, or `all`
    name: String,
    /// End within 40 seconds
    #[arg(long)]
    quick: bool,
}

/// Runs one or all; fails where SPEC.md's figure does not hold.
pub(crate) fn run(arguments: &Arguments) -> Result<(), String> {
    let all = BENCHMARKS.iter().map(|(name, ..)| *name).chain(SCRIPTS.iter().copied());
    let chosen: Vec<&str> = all.clone().filter(|name| arguments.name == "all" || arguments.name == *name).collect();
    if chosen.is_empty() {
        let known: Vec<&str> = all.collect();
        return Err(format!("no benchmark is called {}; there are: {}, all", arguments.name, known.join(", ")));
    }
    let mut broken = Vec::new();
    for name in chosen {
        let figures = one(name, arguments.quick)?;
        broken.extend(limits(name, &figures)?);
    }
    if broken.is_empty() {
        Ok(())
    } else {
        Err(format!("figures of SPEC.md that do not hold:\n  {}", broken.join("\n  ")))
    }
}

fn one(name: &str, quick: bool) -> Result<Value, String> {
    let mut command = match BENCHMARKS.iter().find(|(known, ..)| *known == name) {
        Some((_, package, example)) => {
            let mut command = Command::new("cargo");
            command.args(["run", "--release", "--quiet", "--package", package, "--example", example, "--"]);
            command
        }
        None => Command::new(format!("tests/bench/{name}")),
    };
    if quick {
        command.arg("--quick");
    }
    let output = command.stderr(Stdio::inherit()).output().map_err(|error| format!("{name}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    if !output.status.success() {
        return Err(format!("{name}: {}", output.status));
    }
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).map_err(|error| format!("{name}: the last line is no JSON object: {error}"))
}

/// The figures of SPEC.md's table that `figures` breaks or lacks. A row reads `| name | figure_by_unit | >= 123 | ... |`; "if measured" after the
/// bound lets the figure be absent, as where a peer is not installed.
fn limits(name: &str, figures: &Value) -> Result<Vec<String>, String> {
    let text = std::fs::read_to_string("SPEC.md").map_err(|error| format!("SPEC.md: {error}"))?;
    let mut broken = Vec::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, row, figure, limit, ..] = cells.as_slice() else { continue };
        if *row != name {
            continue;
        }
        let (bound, is_optional) = limit.strip_suffix(" if measured").map_or((*limit, false), |bound| (bound, true));
        let (sign, bound) =
            bound.split_once(' ').ok_or_else(|| format!("SPEC.md: {name} {figure}: {limit} is no limit"))?;
        let bound = bound
            .replace(',', "")
            .parse::<f64>()
            .map_err(|error| format!("SPEC.md: {name} {figure}: {limit}: {error}"))?;
        let Some(measured) = figures.get(figure.trim_matches('`')).and_then(Value::as_f64) else {
            if !is_optional {
                broken.push(format!("{name} {figure}: not measured, promised {limit}"));
            }
            continue;
        };
        let holds = match sign {
            ">=" => measured >= bound,
            "<=" => measured <= bound,
            _ => return Err(format!("SPEC.md: {name} {figure}: {limit} is no limit")),
        };
        if !holds {
            broken.push(format!("{name} {figure}: {measured}, promised {limit}"));
        }
    }
    Ok(broken)
}
