//! CPU time and memory of the processes that take part, from `/proc`. On systems without it nothing is told.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

/// A part of the run and its processes on this machine.
#[derive(Debug, Clone)]
pub struct Watched {
    /// `server`, `database`, `mock`, `load`.
    pub name: &'static str,
    /// Its processes.
    pub pids: Vec<u32>,
    /// Whether their children are its own, too.
    pub with_children: bool,
}

/// What a part has used up to now.
#[derive(Debug, Clone, Copy, Default)]
pub struct Used {
    /// User and system, of all its processes, those that have ended included.
    pub cpu_seconds: f64,
    /// Bytes in memory; shared pages count once, divided among who shares them.
    pub memory: u64,
    /// The most that its own pages and those it shares ever took, for a single process.
    pub peak: Option<u64>,
}

/// What a part used between two looks.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Which part.
    pub name: String,
    /// CPU seconds.
    pub cpu_seconds: f64,
    /// CPU seconds per second, in percent of one core.
    pub cpu_percent: f64,
    /// MiB at the end.
    pub memory_mib: f64,
    /// MiB at the most, for a single process.
    pub peak_mib: Option<f64>,
}

/// Looks at every part.
#[must_use]
pub fn look(parts: &[Watched]) -> BTreeMap<&'static str, Used> {
    parts.iter().filter_map(|part| used(part).map(|used| (part.name, used))).collect()
}

/// What each part used from one look to the next.
#[must_use]
pub fn between(
    before: &BTreeMap<&'static str, Used>,
    after: &BTreeMap<&'static str, Used>,
    seconds: f64,
) -> Vec<Usage> {
    let usage = |(name, end): (&&'static str, &Used)| {
        let begin = before.get(name).copied().unwrap_or_default();
        let cpu_seconds = (end.cpu_seconds - begin.cpu_seconds).max(0.0);
        Usage {
            name: (*name).to_owned(),
            cpu_seconds,
            cpu_percent: if seconds > 0.0 { 100.0 * cpu_seconds / seconds } else { 0.0 },
            memory_mib: mib(end.memory),
            peak_mib: end.peak.map(mib),
        }
    };
    after.iter().map(usage).collect()
}

fn mib(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes / 1024).unwrap_or(u32::MAX)) / 1024.0
}

fn used(part: &Watched) -> Option<Used> {
    let mut sum = Used::default();
    let mut found = false;
    for root in &part.pids {
        let children = if part.with_children { children_of(*root) } else { Vec::new() };
        for pid in std::iter::once(*root).chain(children) {
            let Some(stat) = Stat::of(pid) else { continue };
            found = true;
            sum.cpu_seconds += seconds(stat.own_ticks);
            if pid == *root && part.with_children {
                // Those that have ended, and were waited for.
                sum.cpu_seconds += seconds(stat.children_ticks);
            }
            sum.memory += memory(pid);
        }
        if let (1, false) = (part.pids.len(), part.with_children) {
            sum.peak = status_line(*root, "VmHWM:");
        }
    }
    found.then_some(sum)
}

struct Stat {
    parent: u32,
    own_ticks: u32,
    children_ticks: u32,
}

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        let text = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
        Self::parse(&text)
    }

    /// The name may hold anything; what follows its last bracket is fields.
    fn parse(text: &str) -> Option<Self> {
        let (_, fields) = text.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let field = |number: usize| fields.get(number).and_then(|field| field.parse::<u32>().ok());
        // From the state, which is field 3 in the manual: 4 is the parent, 14 and 15 are its own times, 16 and 17 its children's.
        Some(Self {
            parent: field(1)?,
            own_ticks: field(11)?.saturating_add(field(12)?),
            children_ticks: field(13)?.saturating_add(field(14)?),
        })
    }
}

/// The process that started this one.
#[must_use]
pub fn parent_of(pid: u32) -> Option<u32> {
    Stat::of(pid).map(|stat| stat.parent)
}

/// What a process calls itself.
#[must_use]
pub fn name_of(pid: u32) -> Option<String> {
    let name = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("comm")).ok()?;
    Some(name.trim().to_owned())
}

fn children_of(parent: u32) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

/// Linux counts in hundredths of a second towards programs, whatever the kernel's own clock.
fn seconds(ticks: u32) -> f64 {
    f64::from(ticks) / 100.0
}

/// Bytes: the proportional set where it may be read, else the resident one.
fn memory(pid: u32) -> u64 {
    let rollup = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("smaps_rollup"));
    let proportional = rollup.ok().and_then(|text| kibibytes(&text, "Pss:"));
    proportional.or_else(|| status_line(pid, "VmRSS:")).unwrap_or(0)
}

fn status_line(pid: u32, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).ok()?;
    kibibytes(&text, name)
}

fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Cores, memory, kernel and processor of this machine.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// Cores that programs may use.
    pub cores: usize,
    /// GiB.
    pub memory_gib: Option<f64>,
    /// What the processor calls itself.
    pub processor: Option<String>,
    /// Kernel.
    pub kernel: Option<String>,
    /// Processes that wanted a core in the last minute, when the run began: what else is going on.
    pub load_before: Option<f64>,
    /// Whether the program was built with optimisations.
    pub optimised: bool,
}

impl Machine {
    /// This one.
    #[must_use]
    pub fn this() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        let memory = read("/proc/meminfo").and_then(|text| kibibytes(&text, "MemTotal:"));
        let processor = read("/proc/cpuinfo").and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            line.split_once(':').map(|(_, name)| name.trim().to_owned())
        });
        Self {
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_gib: memory.map(|bytes| mib(bytes) / 1024.0),
            processor,
            kernel: read("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()),
            load_before: read("/proc/loadavg").and_then(|text| text.split(' ').next()?.parse().ok()),
            optimised: !cfg!(debug_assertions),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_process_are_found_behind_any_name() {
        let stat = "4242 (a) b) (c) S 17 4242 4242 0 -1 4194304 100 200 0 0 31 9 500 41 20 0 8 0 1234 5 6";
        let stat = Stat::parse(stat).unwrap();
        assert_eq!((stat.parent, stat.own_ticks, stat.children_ticks), (17, 40, 541));
        assert!(Stat::parse("no brackets").is_none());
    }

    #[test]
    fn sizes_are_read_in_bytes() {
        assert_eq!(kibibytes("Rss: 7 kB\nPss:      12 kB\n", "Pss:"), Some(12 * 1024));
        assert_eq!(kibibytes("Rss: 7 kB\n", "Pss:"), None);
    }

    #[test]
    fn what_was_used_before_does_not_count() {
        let used = |cpu_seconds| BTreeMap::from([("server", Used { cpu_seconds, memory: 1 << 20, peak: None })]);
        let usage = between(&used(10.0), &used(13.0), 2.0);
        assert_eq!((usage[0].cpu_seconds, usage[0].cpu_percent, usage[0].memory_mib), (3.0, 150.0, 1.0));
    }
}
