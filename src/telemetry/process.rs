//! The process as the kernel sees it, read when somebody scrapes. Linux only; elsewhere nothing is written.

use std::fmt::Write as _;

use super::catalogue::{self, MetricInfo};

/// The unit of `/proc/self/stat`: part of the kernel's interface, the same on every architecture we build for.
const TICKS_PER_SECOND: f64 = 100.0;

/// Appends the `process_` metrics to an exposition.
pub(super) fn render(text: &mut String) {
    for (name, value) in [
        ("process_resident_memory_bytes", resident_bytes()),
        ("process_open_fds", open_fds()),
        ("process_cpu_seconds_total", cpu_seconds()),
    ] {
        let metric = catalogue::all().iter().find(|metric| metric.name == name);
        if let (Some(metric), Some(value)) = (metric, value) {
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

fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The command's name may hold spaces; the fields are counted after its closing bracket.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some((f64::from(user) + f64::from(system)) / TICKS_PER_SECOND)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_memory_files_and_time() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 100_000.0));
        assert!(open_fds().is_some_and(|fds| fds >= 3.0));
        let before = cpu_seconds().expect("linux has it");
        let started = std::time::Instant::now();
        while started.elapsed() < std::time::Duration::from_millis(60) {
            std::hint::spin_loop();
        }
        assert!(cpu_seconds().expect("linux has it") > before);
    }
}
