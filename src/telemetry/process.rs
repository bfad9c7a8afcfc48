//! The process as the kernel sees it, read when somebody scrapes. Linux only; elsewhere nothing is written.

use std::fmt::Write as _;

use super::catalogue::{self, MetricInfo};
use super::runtime;

/// The unit of `/proc/self/stat`: part of the kernel's interface, the same on every architecture we build for.
const TICKS_PER_SECOND: f64 = 100.0;

/// Appends the `process_` metrics to an exposition.
pub(super) fn render(text: &mut String) {
    let of_kernel = [
        ("process_resident_memory_bytes", resident_bytes()),
        ("process_open_fds", open_fds()),
        ("process_max_fds", max_fds()),
        ("process_start_time_seconds", start_time()),
        ("process_cpu_seconds_total", cpu_seconds()),
    ];
    let known = of_kernel.into_iter().filter_map(|(name, value)| Some((name, value?)));
    for (name, value) in known.chain(runtime::figures()) {
        if let Some(metric) = catalogue::all().iter().find(|metric| metric.name == name) {
            write_metric(text, metric, value);
        }
    }
}

fn write_metric(text: &mut String, metric: &MetricInfo, value: f64) {
    let MetricInfo { name, help, kind, .. } = metric;
    let written = write!(text, "# HELP {name} {help}\n# TYPE {name} {}\n{name} {value}\n\n", kind.as_str());
    debug_assert!(written.is_ok(), "writing to a String cannot fail");
}

fn resident_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u32 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(f64::from(kibibytes) * 1024.0)
}

fn open_fds() -> Option<f64> {
    // The listing itself holds one open.
    let listed = std::fs::read_dir("/proc/self/fd").ok()?.count();
    u32::try_from(listed.saturating_sub(1)).ok().map(f64::from)
}

/// The limit that holds now; nothing if there is none.
fn max_fds() -> Option<f64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse::<u32>().ok().map(f64::from)
}

/// The moment of the machine's start, and when after it this process was started.
fn start_time() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let booted: u32 = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    let own = std::fs::read_to_string("/proc/self/stat").ok()?;
    let ticks: f64 = fields_of(&own)?.nth(19)?.parse().ok()?;
    Some(f64::from(booted) + ticks / TICKS_PER_SECOND)
}

fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = fields_of(&stat)?.skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some((f64::from(user) + f64::from(system)) / TICKS_PER_SECOND)
}

/// The fields after the command's name, which may hold spaces: they are counted after its closing bracket.
fn fields_of(stat: &str) -> Option<impl Iterator<Item = &str>> {
    stat.rsplit_once(')').map(|(_, fields)| fields.split_ascii_whitespace())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_memory_files_and_time() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 100_000.0));
        assert!(open_fds().is_some_and(|fds| fds >= 3.0));
        assert!(max_fds().zip(open_fds()).is_some_and(|(max, open)| max >= open));
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_secs_f64();
        assert!(start_time().is_some_and(|started| started > 1e9 && started <= now + 1.0));
        let before = cpu_seconds().expect("linux has it");
        let started = std::time::Instant::now();
        while started.elapsed() < std::time::Duration::from_millis(60) {
            std::hint::spin_loop();
        }
        assert!(cpu_seconds().expect("linux has it") > before);
    }
}
