//! Capabilities by name and number, the default set, and what this process may hand on.

use std::{fs, sync::OnceLock};

use crate::{
    error::{Error, Result},
    spec::Capabilities,
};

const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What containers have unless told otherwise.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// The number of a capability, with or without `CAP_`, in any case.
pub(crate) fn number(name: &str) -> Option<u32> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|it| *it == bare).map(|it| it as u32)
}

/// The capabilities that this process has itself; no child can have more.
fn permitted() -> u64 {
    static PERMITTED: OnceLock<u64> = OnceLock::new();
    *PERMITTED.get_or_init(|| {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let value =
            |key: &str| status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix(key)?.trim(), 16).ok());
        value("CapPrm:").unwrap_or(0) & value("CapBnd:").unwrap_or(u64::MAX)
    })
}

/// A container's set, as a bit mask.
pub(crate) fn resolve(spec: &Capabilities, privileged: bool) -> Result<u64> {
    if privileged {
        return Ok(permitted());
    }
    let all = |names: &[String]| names.iter().any(|name| name.eq_ignore_ascii_case("ALL"));
    let mask = |names: &[String]| {
        names.iter().filter(|name| !name.eq_ignore_ascii_case("ALL")).try_fold(0u64, |mask, name| {
            let number = number(name).ok_or_else(|| Error::Invalid(format!("unknown capability {name:?}")))?;
            Ok::<u64, Error>(mask | 1 << number)
        })
    };
    let default = DEFAULT.iter().filter_map(|name| number(name)).fold(0u64, |mask, number| mask | 1 << number);
    let base = match (all(&spec.add), all(&spec.drop)) {
        (true, _) => u64::MAX,
        (false, true) => 0,
        (false, false) => default,
    };
    Ok(((base | mask(&spec.add)?) & !mask(&spec.drop)?) & permitted())
}
