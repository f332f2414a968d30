//! The systemd unit: the agent may end without its pods, and no resource limit of a service applies to them.

use crate::cli::Failure;
use std::fs;
use std::path::Path;
use std::process::Command;

const UNIT: &str = "/etc/systemd/system/klynge.service";

/// True where systemd is the running init and starts services in this network namespace: in another one (`ip netns exec`) a
/// unit would bring up a cluster somewhere else.
pub(crate) fn present() -> bool {
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).ok();
    Path::new("/run/systemd/system").is_dir() && namespace("1") == namespace("self")
}

/// True where our unit is installed.
pub(crate) fn installed() -> bool {
    Path::new(UNIT).exists()
}

/// The words that the unit starts the binary with, as they stand in it.
pub(crate) fn words() -> Option<Vec<String>> {
    let text = fs::read_to_string(UNIT).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("ExecStart="))?;
    Some(line.split(' ').skip(1).map(str::to_owned).collect())
}

/// The unit's text for `binary` with `arguments`.
fn unit(binary: &str, arguments: &[String]) -> String {
    let quoted: Vec<String> = arguments.iter().map(|word| quote(word)).collect();
    format!(
        "[Unit]\n\
         Description=Klynge: many machines feel like one\n\
         After=network-online.target\n\
         Wants=network-online.target\n\n\
         [Service]\n\
         Type=notify\n\
         ExecStart={} {}\n\
         KillMode=process\n\
         Delegate=yes\n\
         Restart=always\n\
         RestartSec=1\n\
         LimitNOFILE=1048576\n\
         TasksMax=infinity\n\
         TimeoutStartSec=120\n\
         OOMScoreAdjust=-999\n\n\
         [Install]\n\
         WantedBy=multi-user.target\n",
        quote(binary),
        quoted.join(" ")
    )
}

/// A word as systemd reads it back: quotes and backslashes escaped, `%` and `$` doubled.
fn quote(word: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_./:=,@+".contains(character);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    let escaped = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    format!("\"{escaped}\"")
}

/// Installs and starts the unit; systemd waits for READY=1.
pub(crate) fn start(arguments: &[String]) -> Result<(), Failure> {
    let binary =
        std::env::current_exe().map_err(|error| Failure::Failed(format!("cannot find this binary: {error}")))?;
    let text = unit(&binary.to_string_lossy(), arguments);
    fs::write(UNIT, text).map_err(|error| Failure::Failed(format!("cannot write {UNIT}: {error}")))?;
    systemctl(&["daemon-reload"])?;
    systemctl(&["enable", "--quiet", "klynge.service"])?;
    systemctl(&["restart", "klynge.service"])
        .map_err(|failure| Failure::Failed(format!("{failure}; its log: journalctl -u klynge -n 50")))
}

/// Stops the unit; with `remove` it is uninstalled as well.
pub(crate) fn stop(remove: bool) -> Result<(), Failure> {
    systemctl(&["stop", "klynge.service"])?;
    if remove {
        systemctl(&["disable", "--quiet", "klynge.service"])?;
        fs::remove_file(UNIT).map_err(|error| Failure::Failed(format!("cannot remove {UNIT}: {error}")))?;
        systemctl(&["daemon-reload"])?;
    }
    Ok(())
}

fn systemctl(arguments: &[&str]) -> Result<(), Failure> {
    let output = Command::new("systemctl").args(arguments).output();
    let output = output.map_err(|error| Failure::Failed(format!("cannot run systemctl: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::Failed(format!("systemctl {} failed: {}", arguments.join(" "), said.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_keeps_pods_alive_and_quotes_words() {
        let text = unit("/usr/local/bin/klynge", &["server".to_owned(), "--node-name".to_owned(), "a b%".to_owned()]);
        assert!(text.contains("ExecStart=/usr/local/bin/klynge server --node-name \"a b%%\"\n"), "{text}");
        for line in ["Type=notify", "KillMode=process", "Delegate=yes"] {
            assert!(text.contains(line), "{line}");
        }
    }
}
