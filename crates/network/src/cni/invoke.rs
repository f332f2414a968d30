//! Runs a plug-in: the one place where Klynge starts programs of others, since that is what CNI is.

use std::io::{Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// What is read of a plug-in's answer, and of what it writes beside it.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
const WORDS_BYTES_MAX: u64 = 64 << 10;
/// How often an ending is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// What the output may take to end once the plug-in has.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);

/// How a plug-in ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// Whether its exit code is zero.
    pub(super) succeeded: bool,
    /// How it ended, in words.
    pub(super) how: String,
    /// Its answer.
    pub(super) answer: Vec<u8>,
    /// What it wrote to its standard error.
    pub(super) words: Vec<u8>,
}

/// Reads so much, then lets the rest go by, so that the writer does not wait.
fn read(mut from: impl Read + Send + 'static, most: u64) -> std::io::Result<Receiver<(Vec<u8>, bool)>> {
    let (sender, receiver) = channel();
    std::thread::Builder::new().name("cni-output".to_owned()).stack_size(128 << 10).spawn(move || {
        let mut bytes = Vec::new();
        // What cannot be read counts as the end.
        let _ = (&mut from).take(most).read_to_end(&mut bytes);
        let beyond = std::io::copy(&mut from, &mut std::io::sink()).unwrap_or(0);
        let _ = sender.send((bytes, beyond > 0));
    })?;
    Ok(receiver)
}

fn end(child: &mut Child) {
    // Its group: what it started itself holds the output open as well.
    if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// Runs a program with this environment and nothing else of ours but the PATH, writes the input, and waits for its end.
pub(super) fn run(
    program: &Path,
    environment: &[(&'static str, String)],
    input: Vec<u8>,
    within: Duration,
) -> Result<Ended, String> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin".into());
    let mut command = Command::new(program);
    command.env_clear().env("PATH", path).envs(environment.iter().map(|(name, value)| (name, value)));
    command.current_dir("/").process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("cannot run {}: {error}", program.display()))?;
    let ended = follow(&mut child, input, within);
    if ended.is_err() {
        end(&mut child);
    }
    ended
}

fn follow(child: &mut Child, input: Vec<u8>, within: Duration) -> Result<Ended, String> {
    let failed = |error: std::io::Error| format!("cannot talk to the plug-in: {error}");
    let missing = || "its pipes are not there".to_owned();
    let answer = read(child.stdout.take().ok_or_else(missing)?, ANSWER_BYTES_MAX).map_err(failed)?;
    let words = read(child.stderr.take().ok_or_else(missing)?, WORDS_BYTES_MAX).map_err(failed)?;
    let mut stdin = child.stdin.take().ok_or_else(missing)?;
    // A plug-in that does not read its input is no reason to wait longer than for any other; it may also not want it.
    let writer = std::thread::Builder::new().name("cni-input".to_owned()).stack_size(128 << 10);
    writer.spawn(move || drop(stdin.write_all(&input))).map_err(failed)?;
    let deadline = Instant::now() + within;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            break status;
        }
        if Instant::now() >= deadline {
            return Err(format!("it was ended after {} s without an answer", within.as_secs()));
        }
        std::thread::sleep(LOOK_EVERY);
    };
    let late = |_| "it ended, but what it started holds its output open".to_owned();
    let (answer, is_cut) = answer.recv_timeout(DRAIN_WITHIN).map_err(late)?;
    if is_cut {
        return Err(format!("its answer is longer than {ANSWER_BYTES_MAX} bytes"));
    }
    let (words, _) = words.recv_timeout(DRAIN_WITHIN).map_err(late)?;
    Ok(Ended { succeeded: status.success(), how: status.to_string(), answer, words })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn script(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("plug-in");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        (directory, path)
    }

    fn try_run(text: &str, within: Duration) -> Result<Ended, String> {
        let (_kept, path) = script(text);
        run(&path, &[("CNI_COMMAND", "ADD".to_owned())], b"input".to_vec(), within)
    }

    #[test]
    fn a_program_gets_its_input_and_environment_and_gives_its_answer() {
        let ended =
            try_run("cat; echo \" $CNI_COMMAND $HOME\"; echo beside >&2; exit 3", Duration::from_secs(10)).unwrap();
        assert!(!ended.succeeded && ended.how.contains('3'), "{}", ended.how);
        assert_eq!(String::from_utf8_lossy(&ended.answer), "input ADD \n", "nothing of our environment");
        assert_eq!(ended.words, b"beside\n");
    }

    #[test]
    fn what_takes_or_writes_too_much_is_ended() {
        let begun = Instant::now();
        let why = try_run("sleep 600 & sleep 600", Duration::from_millis(300)).unwrap_err();
        assert!(why.contains("ended after"), "{why}");
        assert!(begun.elapsed() < Duration::from_secs(10));
        let why = try_run("head -c 3000000 /dev/zero", Duration::from_secs(10)).unwrap_err();
        assert!(why.contains("longer than"), "{why}");
        // An input that nobody reads, larger than a pipe holds.
        let (_kept, path) = script("echo fine");
        let ended = run(&path, &[], vec![b' '; 1 << 20], Duration::from_secs(10)).unwrap();
        assert_eq!(ended.answer, b"fine\n");
        assert!(run(Path::new("/nonexistent"), &[], Vec::new(), Duration::from_secs(1)).is_err());
    }
}
