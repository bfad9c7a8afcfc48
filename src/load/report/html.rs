//! The report as one page that needs nothing beside it.

use super::super::recorder::Outcome;
use super::{Percentiles, Report, StepReport, plots, text};

const STYLE: &str = include_str!("page.css");

/// The page.
#[must_use]
pub fn of(report: &Report) -> String {
    let title = format!("Load run: {}", report.scenario);
    let verdict = if report.proof.holds { "holds" } else { "fails" };
    let differences: String =
        report.proof.differences.iter().map(|difference| format!("<li>{}</li>", escaped(difference))).collect();
    let examples: String = report.examples.iter().map(|example| format!("<li>{}</li>", escaped(example))).collect();
    let examples =
        if examples.is_empty() { examples } else { format!("<h2>Answers nobody should see</h2><ul>{examples}</ul>") };
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}</style><main>\
         <header><h1>{title}</h1><p>{pace}; {extent}; {target}.</p></header>\
         <section class=\"proof {verdict}\"><p>{line}</p><ul>{differences}</ul></section>\
         <section class=tiles>{tiles}</section>\
         <h2>Latency by percentile</h2><figure>{curve}<figcaption>{legend}</figcaption></figure>\
         <div class=wide><table><thead><tr><th>step<th>answers<th>p50<th>p90<th>p99<th>p99.9<th>max</tr></thead>{rows}</table></div>\
         <p class=note>Milliseconds, of answers that did something or said why not. The whole turn leaves out the time in \
         the PG’s window.</p>\
         <h2>Course</h2><figure>{course}<figcaption><span class=\"key ok\"></span>turns done \
         <span class=\"key other\"></span>ended otherwise <span class=\"key p99\"></span>p99 of each second, right scale\
         </figcaption></figure>\
         <h2>Outcomes</h2>{outcomes}<p class=legend>{outcome_legend}</p>{examples}\
         <h2>Processes</h2><div class=wide><table><thead><tr><th>part<th>CPU s<th>% of a core<th>MiB<th>most MiB</tr></thead>{usage}</table></div>\
         <footer>{machine}. Ended {ended}.</footer></main></html>",
        pace = escaped(&report.pace),
        extent = escaped(&report.extent),
        target = escaped(&report.target),
        line = escaped(&report.proof.line),
        tiles = tiles(report),
        curve = plots::latencies(&report.steps),
        legend = legend(&report.steps),
        rows = report.steps.iter().map(step_rows).collect::<String>(),
        course = plots::course(&report.seconds),
        outcomes = plots::outcomes(&report.steps),
        outcome_legend = outcome_legend(&report.steps),
        usage = usage(report),
        machine = escaped(&text::machine(report)),
        ended = report.ended_at.format("%Y-%m-%d %H:%M UTC"),
    )
}

/// Text that is nothing but text in a page.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn tiles(report: &Report) -> String {
    let whole = report.steps.first();
    let tile = |value: String, what: &str| format!("<div><b>{value}</b>{what}</div>");
    let mut tiles = tile(plots::short(report.turns_per_second), "turns per second");
    if let Some(whole) = whole {
        let Percentiles { p50, p99, p999, .. } = whole.latency_ms;
        for (millis, what) in [(p50, "ms, median turn"), (p99, "ms, p99"), (p999, "ms, p99.9")] {
            tiles.push_str(&tile(format!("{millis:.1}"), what));
        }
        let odd = [Outcome::Error, Outcome::Transport].iter().map(|outcome| whole.count(*outcome)).sum::<u64>();
        tiles.push_str(&tile(odd.to_string(), "errors"));
    }
    tiles
}

fn legend(steps: &[StepReport]) -> String {
    let key = |(number, step): (usize, &StepReport)| {
        format!("<span class=\"key c{}\"></span>{} ", number % plots::COLOURS, escaped(step.step))
    };
    steps.iter().enumerate().map(key).collect()
}

fn outcome_legend(steps: &[StepReport]) -> String {
    let met = |outcome: &&Outcome| steps.iter().any(|step| step.count(**outcome) > 0);
    let key = |outcome: &Outcome| format!("<span class=\"key {outcome}\"></span>{outcome} ");
    Outcome::ALL.iter().filter(met).map(key).collect()
}

fn step_rows(step: &StepReport) -> String {
    let served: u64 =
        Outcome::ALL.iter().filter(|outcome| outcome.is_served()).map(|outcome| step.count(*outcome)).sum();
    let mut rows = row(step.step, &served.to_string(), &step.latency_ms);
    if let Some(without) = &step.latency_without_pg_ms {
        rows.push_str(&row("without the PG’s own time", "", without).replacen("<tr>", "<tr class=part>", 1));
    }
    rows
}

fn row(name: &str, count: &str, percentiles: &Percentiles) -> String {
    let Percentiles { p50, p90, p99, p999, max, .. } = percentiles;
    let cells: String = [p50, p90, p99, p999, max].iter().map(|millis| format!("<td>{millis:.2}")).collect();
    format!("<tr><th>{}<td>{count}{cells}</tr>", escaped(name))
}

fn usage(report: &Report) -> String {
    let row = |used: &super::Usage| {
        let peak = used.peak_mib.map(|mib| format!("{mib:.0}")).unwrap_or_default();
        let super::Usage { name, cpu_seconds, cpu_percent, memory_mib, .. } = used;
        format!("<tr><th>{name}<td>{cpu_seconds:.1}<td>{cpu_percent:.0}<td>{memory_mib:.0}<td>{peak}</tr>")
    };
    report.usage.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_cannot_become_part_of_the_page() {
        assert_eq!(escaped("<b title=\"x\">&"), "&lt;b title=&quot;x&quot;&gt;&amp;");
    }
}
