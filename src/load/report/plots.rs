//! Plots as inline SVG: a curve of latencies, the course of the run, and the outcomes of each step.

use super::super::recorder::{Outcome, Second};
use super::StepReport;
use super::html::escaped;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 82.0;
const RIGHT: f64 = 82.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 34.0;
/// Steps have these colours in turn; the style sheet knows them.
pub(super) const COLOURS: usize = 8;

/// A plot's area in its own units.
struct Area {
    x_max: f64,
    y_min: f64,
    y_max: f64,
    logarithmic: bool,
}

impl Area {
    fn x(&self, value: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * value / self.x_max
    }

    fn y(&self, value: f64) -> f64 {
        let part = if self.logarithmic {
            (value.max(self.y_min).log10() - self.y_min.log10()) / (self.y_max.log10() - self.y_min.log10())
        } else {
            (value - self.y_min) / (self.y_max - self.y_min)
        };
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * part
    }

    fn line(&self, points: &[(f64, f64)]) -> String {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{:.1},{:.1}", self.x(*x), self.y(*y))).collect();
        points.join(" ")
    }

    fn across(&self, value: f64, text: &str) -> String {
        let y = self.y(value);
        format!(
            "<line class=grid x1={LEFT} x2={:.1} y1={y:.1} y2={y:.1} /><text class=tick x={:.1} y={:.1} text-anchor=end>{text}</text>",
            WIDTH - RIGHT,
            LEFT - 7.0,
            y + 4.0
        )
    }

    fn below(&self, value: f64, text: &str) -> String {
        let (x, bottom) = (self.x(value), HEIGHT - BOTTOM);
        format!(
            "<line class=grid x1={x:.1} x2={x:.1} y1={TOP} y2={bottom} /><text class=tick x={x:.1} y={:.1} text-anchor=middle>{text}</text>",
            bottom + 17.0
        )
    }
}

fn svg(label: &str, inside: &str) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=img aria-label=\"{label}\">{inside}</svg>")
}

/// How many nines a quantile has: 0.9 is 1, 0.99 is 2.
fn nines(quantile: f64) -> f64 {
    -(1.0 - quantile).log10()
}

/// The latency of every share of the requests, up to 99.99 %, for each step.
pub(super) fn latencies(steps: &[StepReport]) -> String {
    let all =
        || steps.iter().flat_map(|step| step.curve.iter().map(|(_, millis)| *millis)).filter(|millis| *millis > 0.0);
    let lowest = decade_below(all().fold(f64::INFINITY, f64::min));
    let highest = decade_below(all().fold(0.0, f64::max)) * 10.0;
    if !lowest.is_finite() || highest <= lowest {
        return String::new();
    }
    let area = Area { x_max: 4.0, y_min: lowest, y_max: highest, logarithmic: true };
    let mut inside = String::new();
    let mut decade = lowest;
    while decade <= highest * 1.01 {
        inside.push_str(&area.across(decade, &format!("{decade} ms")));
        decade *= 10.0;
    }
    for (quantile, text) in
        [(0.0, "0"), (0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"), (0.9999, "99.99 %")]
    {
        inside.push_str(&area.below(nines(quantile), text));
    }
    for (number, step) in steps.iter().enumerate() {
        let points: Vec<(f64, f64)> = step.curve.iter().map(|(quantile, millis)| (nines(*quantile), *millis)).collect();
        let name = escaped(step.step);
        inside.push_str(&format!(
            "<polyline class=\"curve c{}\" points=\"{}\"><title>{name}</title></polyline>",
            number % COLOURS,
            area.line(&points)
        ));
    }
    svg("Latency by percentile", &inside)
}

/// Turns done in each second as bars, the 99th percentile of each second as a line.
pub(super) fn course(seconds: &[Second]) -> String {
    let most = seconds.iter().map(|second| super::real(second.ok + second.other)).fold(1.0, f64::max);
    let slowest = seconds.iter().map(|second| second.p99_ms).fold(1.0, f64::max);
    let count = seconds.iter().map(|_| 1.0).sum::<f64>().max(1.0);
    let bars = Area { x_max: count, y_min: 0.0, y_max: round_up(most), logarithmic: false };
    let line = Area { x_max: count, y_min: 0.0, y_max: round_up(slowest), logarithmic: false };
    let mut inside = String::new();
    for quarter in [0.0, 0.25, 0.5, 0.75, 1.0] {
        inside.push_str(&bars.across(bars.y_max * quarter, &format!("{}/s", short(bars.y_max * quarter))));
        let y = line.y(line.y_max * quarter) + 4.0;
        let x = WIDTH - RIGHT + 7.0;
        inside.push_str(&format!("<text class=tick x={x} y={y:.1}>{} ms</text>", short(line.y_max * quarter)));
    }
    let wide = (WIDTH - LEFT - RIGHT) / count;
    let mut points = Vec::new();
    let mut at = 0.0;
    for second in seconds {
        let (ok, all) = (super::real(second.ok), super::real(second.ok + second.other));
        inside.push_str(&bar(&bars, at, wide, (0.0, ok), "ok"));
        inside.push_str(&bar(&bars, at, wide, (ok, all), "other"));
        points.push((at + 0.5, second.p99_ms));
        at += 1.0;
    }
    let every = (count / 10.0).ceil().max(1.0);
    let mut mark = 0.0;
    while mark <= count {
        let x = bars.x(mark);
        inside.push_str(&format!(
            "<text class=tick x={x:.1} y={} text-anchor=middle>{mark:.0} s</text>",
            HEIGHT - BOTTOM + 17.0
        ));
        mark += every;
    }
    inside.push_str(&format!(
        "<polyline class=\"curve p99\" points=\"{}\"><title>p99</title></polyline>",
        line.line(&points)
    ));
    svg("Turns per second, and the 99th percentile", &inside)
}

fn bar(area: &Area, at: f64, wide: f64, (from, to): (f64, f64), class: &str) -> String {
    if to <= from {
        return String::new();
    }
    let (top, high) = (area.y(to), area.y(from) - area.y(to));
    format!(
        "<rect class={class} x={:.1} y={top:.1} width={:.1} height={high:.1}><title>{:.0}</title></rect>",
        area.x(at) + wide * 0.06,
        wide * 0.88,
        to - from
    )
}

/// One bar for each step, cut by outcome.
pub(super) fn outcomes(steps: &[StepReport]) -> String {
    let row = |step: &StepReport| {
        let all: u64 = step.outcomes.values().sum();
        let part = |outcome: &Outcome| {
            let count = step.count(*outcome);
            let share = 100.0 * super::real(count) / super::real(all.max(1));
            (count > 0).then(|| {
                format!("<i class=\"{outcome}\" style=\"width:{share:.3}%\" title=\"{outcome}: {count}\"></i>")
            })
        };
        let parts: String = Outcome::ALL.iter().filter_map(part).collect();
        format!("<div class=outcome><span>{}</span><b>{parts}</b></div>", escaped(step.step))
    };
    steps.iter().map(row).collect()
}

fn decade_below(value: f64) -> f64 {
    10.0_f64.powf(value.log10().floor())
}

/// A number of a scale: whole where it is large.
pub(super) fn short(value: f64) -> String {
    if value < 10.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

/// The next round number.
fn round_up(value: f64) -> f64 {
    let decade = decade_below(value);
    let rounds = [1.0, 2.0, 4.0, 5.0, 8.0, 10.0].map(|step| step * decade);
    rounds.into_iter().find(|round| *round >= value).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_end_at_round_numbers() {
        assert_eq!([round_up(1.0), round_up(337.0), round_up(81.0), round_up(1_600.0)], [1.0, 400.0, 100.0, 2_000.0]);
        assert!((nines(0.999) - 3.0).abs() < 1e-9);
    }
}
