//! Puts limits into control files.

use std::path::Path;

use super::files;
use crate::{error::Result, spec::Resources};

const PERIOD_US: u64 = 100_000;

/// Weight on v2 for shares on v1, by the formula of the OCI runtimes.
pub(crate) fn weight_of_shares(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    1 + (shares - 2) * 9_999 / 262_142
}

/// Limits on v1, for the controllers of one hierarchy.
pub(crate) fn apply_separate(group: &Path, controllers: &[String], resources: &Resources) -> Result<()> {
    for controller in controllers {
        match controller.as_str() {
            "cpu" => {
                if let Some(shares) = resources.cpu_shares {
                    files::write(&group.join("cpu.shares"), &shares.clamp(2, 262_144).to_string())?;
                }
                if let Some(quota) = resources.cpu_quota_us {
                    let period = resources.cpu_period_us.unwrap_or(PERIOD_US);
                    files::write(&group.join("cpu.cfs_period_us"), &period.to_string())?;
                    files::write(&group.join("cpu.cfs_quota_us"), &quota.max(1_000).to_string())?;
                }
            }
            "memory" => {
                if let Some(limit) = resources.memory_limit_bytes {
                    files::write(&group.join("memory.limit_in_bytes"), &limit.to_string())?;
                    // Absent where swap is not accounted.
                    let _ = files::write(&group.join("memory.memsw.limit_in_bytes"), &limit.to_string());
                }
            }
            "pids" => {
                if let Some(limit) = resources.pids_limit {
                    files::write(&group.join("pids.max"), &limit.to_string())?;
                }
            }
            "hugetlb" => {
                for (size, bytes) in &resources.hugepage_limits_bytes {
                    files::write(&group.join(format!("hugetlb.{size}.limit_in_bytes")), &bytes.to_string())?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Limits on v2.
pub(crate) fn apply_unified(group: &Path, resources: &Resources) -> Result<()> {
    if let Some(shares) = resources.cpu_shares {
        files::write(&group.join("cpu.weight"), &weight_of_shares(shares).to_string())?;
    }
    if let Some(quota) = resources.cpu_quota_us {
        let period = resources.cpu_period_us.unwrap_or(PERIOD_US);
        files::write(&group.join("cpu.max"), &format!("{} {period}", quota.max(1_000)))?;
    }
    if let Some(limit) = resources.memory_limit_bytes {
        files::write(&group.join("memory.max"), &limit.to_string())?;
        let _ = files::write(&group.join("memory.swap.max"), "0");
    }
    if let Some(limit) = resources.pids_limit {
        files::write(&group.join("pids.max"), &limit.to_string())?;
    }
    for (size, bytes) in &resources.hugepage_limits_bytes {
        files::write(&group.join(format!("hugetlb.{size}.max")), &bytes.to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::weight_of_shares;

    #[test]
    fn weights() {
        for (shares, weight) in [(0, 1), (2, 1), (1_024, 39), (262_144, 10_000), (u64::MAX, 10_000)] {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
    }
}
