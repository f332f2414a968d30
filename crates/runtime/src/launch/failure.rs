//! The sentence and exit code for a step that failed, as upstream's runtimes word them.

use std::io;

use super::StepName;
use crate::error::Error;

/// What a failed start tells the user.
pub(crate) fn start_error(names: &[StepName], step: u64, errno: i32) -> Error {
    let cause = cause(errno);
    let name = usize::try_from(step).ok().and_then(|step| names.get(step));
    let (message, exit_code) = match name {
        Some(StepName::Execute { command }) if command.contains('/') => match errno {
            libc::ENOENT => (format!("exec: {command:?}: stat {command}: no such file or directory"), 127),
            libc::ENOTDIR => (format!("exec: {command:?}: stat {command}: not a directory"), 127),
            libc::EACCES => (format!("exec: {command:?}: permission denied"), 126),
            _ => (format!("exec {command}: {cause}"), 128),
        },
        Some(StepName::Execute { command }) => match errno {
            libc::ENOENT => (format!("exec: {command:?}: executable file not found in $PATH"), 127),
            libc::EACCES => (format!("exec: {command:?}: permission denied"), 126),
            _ => (format!("exec {command}: {cause}"), 128),
        },
        Some(StepName::WorkingDirectory(path)) => {
            (format!("chdir to cwd ({path:?}) set in config.json failed: {cause}"), 128)
        }
        Some(StepName::Mount { source, target }) => {
            (format!("error mounting {source:?} to rootfs at {target:?}: {cause}"), 128)
        }
        Some(StepName::Other(what)) => (format!("{what}: {cause}"), 128),
        None => (format!("starting the process: {cause}"), 128),
    };
    Error::Start {
        message: format!("unable to start container process: error during container init: {message}"),
        exit_code,
    }
}

/// The kernel's words without Rust's `(os error 2)`, in lower case as Go has them.
fn cause(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    let text = text.split(" (os error").next().unwrap_or_default().to_owned();
    let mut characters = text.chars();
    characters.next().map(|first| first.to_lowercase().chain(characters).collect()).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences() {
        let command = |command: &str| StepName::Execute { command: command.to_owned() };
        for (name, errno, words, code) in [
            (command("foo"), libc::ENOENT, "exec: \"foo\": executable file not found in $PATH", 127),
            (command("/foo"), libc::ENOENT, "exec: \"/foo\": stat /foo: no such file or directory", 127),
            (command("/etc"), libc::EACCES, "exec: \"/etc\": permission denied", 126),
            (command("/x"), libc::ENOEXEC, "exec /x: exec format error", 128),
        ] {
            let Error::Start { message, exit_code } = start_error(&[name], 0, errno) else {
                unreachable!("a start error")
            };
            assert!(message.ends_with(words), "{message}");
            assert_eq!(exit_code, code, "{words}");
        }
    }
}
