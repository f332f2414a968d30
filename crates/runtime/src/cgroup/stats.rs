//! What a group has used.

use std::path::Path;

use super::files;

/// Usage of a pod or a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU time used so far.
    pub cpu_ns: u64,
    /// Memory charged, page cache included.
    pub memory_usage_bytes: u64,
    /// Memory that cannot be reclaimed easily: usage less inactive file pages.
    pub memory_working_set_bytes: u64,
    /// Anonymous memory.
    pub memory_rss_bytes: u64,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that waited for a disk.
    pub major_page_faults: u64,
    /// Tasks now.
    pub tasks: u64,
}

/// Reads a v2 group.
pub(crate) fn unified(group: &Path) -> Stats {
    let memory = group.join("memory.stat");
    let usage = files::number(&group.join("memory.current")).unwrap_or(0);
    let key = |name: &str| files::keyed(&memory, name).unwrap_or(0);
    Stats {
        cpu_ns: files::keyed(&group.join("cpu.stat"), "usage_usec").unwrap_or(0).saturating_mul(1_000),
        memory_usage_bytes: usage,
        memory_working_set_bytes: usage.saturating_sub(key("inactive_file")),
        memory_rss_bytes: key("anon"),
        page_faults: key("pgfault"),
        major_page_faults: key("pgmajfault"),
        tasks: files::number(&group.join("pids.current")).unwrap_or(0),
    }
}

/// Adds what one v1 hierarchy knows.
pub(crate) fn separate(stats: &mut Stats, group: &Path, controllers: &[String]) {
    for controller in controllers {
        match controller.as_str() {
            "cpuacct" => stats.cpu_ns = files::number(&group.join("cpuacct.usage")).unwrap_or(0),
            "memory" => {
                let memory = group.join("memory.stat");
                let key = |name: &str| files::keyed(&memory, name).unwrap_or(0);
                let usage = files::number(&group.join("memory.usage_in_bytes")).unwrap_or(0);
                stats.memory_usage_bytes = usage;
                stats.memory_working_set_bytes = usage.saturating_sub(key("total_inactive_file"));
                stats.memory_rss_bytes = key("total_rss");
                stats.page_faults = key("total_pgfault");
                stats.major_page_faults = key("total_pgmajfault");
            }
            "pids" => stats.tasks = files::number(&group.join("pids.current")).unwrap_or(0),
            _ => {}
        }
    }
}
