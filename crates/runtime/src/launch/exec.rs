//! The program of an exec: into the container's groups and namespaces, and then what the container's own process was.

use std::path::PathBuf;

use base64::Engine;

use super::{
    Program,
    container::{DEFAULT_PATH, finish},
};
use crate::{
    error::{Error, Result},
    spec::ExecSpec,
    state::ExecTemplate,
    wire,
};

/// Writes the program.
pub(crate) fn exec(spec: &ExecSpec, template: &ExecTemplate, files: &[PathBuf]) -> Result<Program> {
    let mut program = Program::new();
    for file in files {
        program.plain(wire::OP_WRITE_FILE, 0, "entering the control group").text(&file.to_string_lossy()).bytes(b"0");
    }
    program
        .plain(wire::OP_WRITE_FILE, wire::STEP_OPTIONAL, "setting the OOM score")
        .text("/proc/self/oom_score_adj")
        .bytes(template.oom_score_adj.to_string().as_bytes());
    drop(program.plain(wire::OP_JOIN, 0, "entering the container's namespaces"));
    let mut env = template.env.clone();
    for (name, value) in &spec.env {
        set(&mut env, name, value);
    }
    if spec.tty {
        if !env.iter().any(|it| it.starts_with("TERM=")) {
            env.push("TERM=xterm".to_owned());
        }
        let (columns, rows) = spec.size.unwrap_or((0, 0));
        program
            .plain(wire::OP_TTY, 0, "opening a terminal")
            .number(u64::from(columns))
            .number(u64::from(rows))
            .number(0)
            .number(u64::from(template.identity.uid));
    } else {
        program.plain(wire::OP_STDIO, 0, "connecting standard streams").number(u64::from(template.identity.uid));
    }
    let filter = base64::engine::general_purpose::STANDARD
        .decode(&template.seccomp)
        .map_err(|error| Error::Invalid(format!("the container's record is damaged: {error}")))?;
    let path = env.iter().find_map(|it| it.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH).to_owned();
    finish(&mut program, template, &filter, &spec.args, &env, &path)?;
    Ok(program)
}

/// Sets a variable, replacing an older value.
pub(crate) fn set(env: &mut Vec<String>, name: &str, value: &str) {
    let variable = format!("{name}={value}");
    let is_it = |it: &String| it.strip_prefix(name).is_some_and(|rest| rest.starts_with('='));
    match env.iter_mut().find(|it| is_it(it)) {
        Some(it) => *it = variable,
        None => env.push(variable),
    }
}
