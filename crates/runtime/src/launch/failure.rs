//! The sentence and exit code for a step that failed, as upstream's runtimes word them.

use std::io;

use super::StepName;
use crate::error::{Error, StartFault};

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
        Some(StepName::Mount { source, target } | StepName::Volume { source, target }) => {
            (format!("error mounting {source:?} to rootfs at {target:?}: {cause}"), 128)
        }
        Some(StepName::Identity) => (format!("changing user and capabilities: {cause}"), 128),
        Some(StepName::Other(what)) => (format!("{what}: {cause}"), 128),
        None => (format!("starting the process: {cause}"), 128),
    };
    let fault = match name {
        Some(StepName::Execute { .. } | StepName::WorkingDirectory(_) | StepName::Identity) => {
            StartFault::Specification
        }
        // What is mounted, and where, is the specification's; that the kernel has no room for a mount is not.
        Some(StepName::Volume { .. }) if MISPLACED.contains(&errno) => StartFault::Specification,
        _ => StartFault::SetUp,
    };
    let message = format!("unable to start container process: error during container init: {message}");
    Error::Start { message, exit_code, fault }
}

/// What mounting a volume answers when its source is not there, leaves its volume, or does not fit its target.
const MISPLACED: [i32; 8] = [
    libc::ENOENT,
    libc::ENOTDIR,
    libc::EISDIR,
    libc::ELOOP,
    libc::EXDEV,
    libc::EACCES,
    libc::EROFS,
    libc::ENAMETOOLONG,
];

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
        use StartFault::{SetUp, Specification};
        let command = |command: &str| StepName::Execute { command: command.to_owned() };
        let other = |what: &str| StepName::Other(what.to_owned());
        let volume = || StepName::Volume { source: "/a".to_owned(), target: "/b".to_owned() };
        for (name, errno, words, code, whose) in [
            (command("foo"), libc::ENOENT, "exec: \"foo\": executable file not found in $PATH", 127, Specification),
            (command("/foo"), libc::ENOENT, "exec: \"/foo\": stat /foo: no such file or directory", 127, Specification),
            (command("/etc"), libc::EACCES, "exec: \"/etc\": permission denied", 126, Specification),
            (command("/x"), libc::ENOEXEC, "exec /x: exec format error", 128, Specification),
            (StepName::WorkingDirectory("/w".to_owned()), libc::ENOTDIR, "failed: not a directory", 128, Specification),
            (StepName::Identity, libc::EINVAL, "changing user and capabilities: invalid argument", 128, Specification),
            (volume(), libc::ENOTDIR, "mounting \"/a\" to rootfs at \"/b\": not a directory", 128, Specification),
            (volume(), libc::ENOSPC, "rootfs at \"/b\": no space left on device", 128, SetUp),
            (other("entering the control group"), libc::EBUSY, "entering the control group: resource busy", 128, SetUp),
            (other("installing the seccomp filter"), libc::EINVAL, "seccomp filter: invalid argument", 128, SetUp),
        ] {
            let Error::Start { message, exit_code, fault } = start_error(&[name], 0, errno) else {
                unreachable!("a start error")
            };
            let end = message.rsplit("init: ").next().unwrap_or_default();
            assert!(end.ends_with(words) || words.starts_with("entering") && end.starts_with("entering"), "{message}");
            assert_eq!((exit_code, fault), (code, whose), "{words}");
        }
        let before = start_error(&[other("entering the control group")], u64::from(u32::MAX), libc::EEXIST);
        assert!(before.to_string().ends_with("starting the process: file exists"), "{before}");
    }
}
