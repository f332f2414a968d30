//! Policies: the default one for a set of capabilities, and profiles in the JSON format of the OCI runtimes.

use serde::Deserialize;

use super::{
    compile::{ALLOW, Action, Policy, Rule, Test, compile, errno},
    default_list::{AF_VSOCK, ALLOWED, CLONE_NAMESPACES, PERSONALITIES, WITH_CAPABILITY},
    table,
};
use crate::{
    capabilities,
    error::{Error, Result},
};

const EPERM: u32 = libc::EPERM as u32;
const ENOSYS: u32 = libc::ENOSYS as u32;

fn always(action: Action) -> Vec<Rule> {
    vec![Rule { tests: Vec::new(), action }]
}

/// `RuntimeDefault` for a container with these capabilities.
pub(crate) fn default_filter(capabilities: u64) -> Result<Vec<u8>> {
    let mut policy = Policy { default: errno(EPERM), ..Policy::default() };
    let mut put = |name: &str, rules: Vec<Rule>| {
        if let Some(number) = table::number(name) {
            policy.calls.insert(number, rules);
        }
    };
    for name in ALLOWED {
        put(name, always(ALLOW));
    }
    let values = PERSONALITIES
        .iter()
        .map(|value| Rule { tests: vec![Test::Masked { argument: 0, mask: u64::MAX, value: *value }], action: ALLOW });
    put("personality", values.collect());
    let no_vsock = Test::NotEqual { argument: 0, value: AF_VSOCK };
    put("socket", vec![Rule { tests: vec![no_vsock], action: ALLOW }]);
    // clone(2) without new namespaces; clone3's flags lie in memory where no filter sees them, so libraries are sent back.
    let no_namespaces = Test::Masked { argument: 0, mask: CLONE_NAMESPACES, value: 0 };
    put("clone", vec![Rule { tests: vec![no_namespaces], action: ALLOW }]);
    put("clone3", always(errno(ENOSYS)));
    for (capability, names) in WITH_CAPABILITY {
        if capabilities::number(capability).is_some_and(|number| capabilities >> number & 1 == 1) {
            names.iter().for_each(|name| put(name, always(ALLOW)));
        }
    }
    compile(&policy).ok_or_else(|| Error::Invalid("the default seccomp filter is too long".to_owned()))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    syscalls: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    name: String,
    #[serde(default)]
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Filter,
    #[serde(default)]
    excludes: Filter,
}

#[derive(Default, Deserialize)]
struct Filter {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

fn action(name: &str, given: Option<u32>) -> Result<Action> {
    Ok(match name {
        "SCMP_ACT_ALLOW" => ALLOW,
        "SCMP_ACT_ERRNO" => errno(given.unwrap_or(EPERM)),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => 0,
        "SCMP_ACT_KILL_PROCESS" => 0x8000_0000,
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_LOG" => 0x7ffc_0000,
        "SCMP_ACT_TRACE" => 0x7ff0_0000 | given.unwrap_or(EPERM) & 0xffff,
        other => return Err(Error::Invalid(format!("seccomp profile: unknown action {other:?}"))),
    })
}

fn test(argument: &Argument) -> Result<Test> {
    let Argument { index, value, value_two, ref op } = *argument;
    if index > 5 {
        return Err(Error::Invalid(format!("seccomp profile: a system call has no argument {index}")));
    }
    Ok(match op.as_str() {
        "SCMP_CMP_EQ" => Test::Masked { argument: index, mask: u64::MAX, value },
        "SCMP_CMP_MASKED_EQ" => Test::Masked { argument: index, mask: value, value: value_two & value },
        "SCMP_CMP_NE" => Test::NotEqual { argument: index, value },
        "SCMP_CMP_GT" => Test::Greater { argument: index, value, or_equal: false },
        "SCMP_CMP_GE" => Test::Greater { argument: index, value, or_equal: true },
        "SCMP_CMP_LT" => Test::Less { argument: index, value, or_equal: false },
        "SCMP_CMP_LE" => Test::Less { argument: index, value, or_equal: true },
        other => return Err(Error::Invalid(format!("seccomp profile: unknown comparison {other:?}"))),
    })
}

/// A profile for a container with these capabilities.
pub(crate) fn profile_filter(json: &str, capabilities: u64) -> Result<Vec<u8>> {
    let profile: Profile =
        serde_json::from_str(json).map_err(|error| Error::Invalid(format!("seccomp profile: {error}")))?;
    let mut policy =
        Policy { default: action(&profile.default_action, profile.default_errno_ret)?, ..Policy::default() };
    let has = |name: &String| capabilities::number(name).is_some_and(|number| capabilities >> number & 1 == 1);
    let here = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    for entry in &profile.syscalls {
        let included = entry.includes.caps.iter().all(has)
            && (entry.includes.arches.is_empty() || entry.includes.arches.iter().any(|arch| arch == here));
        let excluded = entry.excludes.caps.iter().any(has) || entry.excludes.arches.iter().any(|arch| arch == here);
        if !included || excluded {
            continue;
        }
        let action = action(&entry.action, entry.errno_ret)?;
        let tests: Vec<Test> = entry.args.iter().flatten().map(test).collect::<Result<_>>()?;
        for name in entry.names.iter().chain(std::iter::once(&entry.name)).filter(|name| !name.is_empty()) {
            if let Some(number) = table::number(name) {
                let rules = policy.calls.entry(number).or_default();
                rules.push(Rule { tests: tests.clone(), action });
                // A rule without tests decides, whichever place it has in the profile.
                rules.sort_by_key(|rule| rule.tests.is_empty());
            }
        }
    }
    compile(&policy).ok_or_else(|| Error::Invalid("seccomp profile: the filter is too long for the kernel".to_owned()))
}
