//! The report as tables in a terminal.

use super::super::recorder::Outcome;
use super::{Percentiles, Report, StepReport};

/// The report in words and columns.
#[must_use]
pub fn of(report: &Report) -> String {
    let mut lines = vec![
        format!("{}: {}", report.scenario, report.pace),
        format!("{}; {}", report.extent, report.target),
        machine(report),
        String::new(),
        format!("{:.1} turns/s done, over {:.1} s", report.turns_per_second, report.measured_seconds),
        String::new(),
    ];
    lines.extend(latencies(report));
    lines.push(String::new());
    lines.extend(outcomes(report));
    lines.push(String::new());
    lines.extend(usage(report));
    lines.extend(report.examples.iter().map(|example| format!("odd: {example}")));
    lines.push(report.proof.line.clone());
    lines.extend(report.proof.differences.iter().map(|difference| format!("  - {difference}")));
    lines.join("\n") + "\n"
}

/// The machine in one line.
pub(super) fn machine(report: &Report) -> String {
    let machine = &report.machine;
    let mut parts = vec![format!("{} cores", machine.cores)];
    parts.extend(machine.processor.clone());
    parts.extend(machine.memory_gib.map(|gib| format!("{gib:.0} GiB")));
    parts.extend(machine.kernel.as_ref().map(|kernel| format!("Linux {kernel}")));
    parts.extend(machine.load_before.map(|load| format!("load {load:.1} before")));
    parts.push(format!("paygauge {} ({})", report.version, if machine.optimised { "release" } else { "debug" }));
    parts.join(", ")
}

fn latencies(report: &Report) -> Vec<String> {
    let head = ["p50", "p90", "p99", "p99.9", "max"].map(str::to_owned);
    let mut lines = vec![row("ms", &head)];
    for step in &report.steps {
        lines.push(row(step.step, &columns(&step.latency_ms)));
        if let Some(without) = &step.latency_without_pg_ms {
            lines.push(row("  without the PG", &columns(without)));
        }
    }
    lines
}

fn columns(percentiles: &Percentiles) -> Vec<String> {
    let Percentiles { p50, p90, p99, p999, max, .. } = percentiles;
    [p50, p90, p99, p999, max].iter().map(|millis| format!("{millis:.2}")).collect()
}

fn row(name: &str, columns: &[String]) -> String {
    let columns: String = columns.iter().map(|column| format!(" {column:>10}")).collect();
    format!("{name:<18}{columns}")
}

fn outcomes(report: &Report) -> Vec<String> {
    let met = |outcome: &&Outcome| report.steps.iter().any(|step| step.count(**outcome) > 0);
    let outcomes: Vec<Outcome> = Outcome::ALL.iter().filter(met).copied().collect();
    let head: Vec<String> = outcomes.iter().map(ToString::to_string).collect();
    let of = |step: &StepReport| {
        let counts: Vec<String> = outcomes.iter().map(|outcome| step.count(*outcome).to_string()).collect();
        row(step.step, &counts)
    };
    std::iter::once(row("outcomes", &head)).chain(report.steps.iter().map(of)).collect()
}

fn usage(report: &Report) -> Vec<String> {
    let line = |used: &super::Usage| {
        let peak = used.peak_mib.map(|mib| format!(", {mib:.0} at the most")).unwrap_or_default();
        format!(
            "{:<9} {:>7.1} CPU s ({:>3.0} % of one core)  {:>6.0} MiB{peak}",
            used.name, used.cpu_seconds, used.cpu_percent, used.memory_mib
        )
    };
    let mut lines: Vec<String> = report.usage.iter().map(line).collect();
    lines.push(String::new());
    lines
}
