//! Shapes of queries that come back on many panels.

/// How long ago the oldest of something was, and 0 while there is none; nothing at all when nobody looks.
///
/// The gauge is read from the database by one worker; the others expose NaN, which passes no comparison.
#[must_use]
pub fn age(gauge: &str, by: &str) -> String {
    format!("(time() - min by ({by}) ({gauge}{{@job}} > 0)) or max by ({by}) (0 * {gauge}{{@job}})")
}

/// Seconds since something last happened in any process; nothing if it never did.
#[must_use]
pub fn since(gauge: &str, matchers: &str, by: &str) -> String {
    format!("time() - max by ({by}) ({gauge}{{{matchers}}} > 0)")
}

/// Which share of `valid` is `bad`, by labels: 0 where a bad one never was, nothing where there is no traffic.
#[must_use]
pub fn share(counter: &str, bad: &str, valid: &str, by: &str) -> String {
    let rate = |matchers: &str| format!("sum by ({by}) (rate({counter}{{@{matchers}}}[@]))");
    let (bad, valid) = (rate(bad), rate(valid));
    format!("({bad} or 0 * {valid}) / ({valid} > 0)")
}

/// Events per second, by labels.
#[must_use]
pub fn rate(counter: &str, matchers: &str, by: &str) -> String {
    format!("sum by ({by}) (rate({counter}{{{matchers}}}[@]))")
}

/// A service gauge, as the one worker that reads it says.
#[must_use]
pub fn read(gauge: &str, by: &str) -> String {
    format!("max by ({by}) ({gauge}{{@job}})")
}

/// Of a series that every program may expose, what our own processes say.
///
/// "All" jobs are also those of Prometheus and Alertmanager, which are scraped as well.
#[must_use]
pub fn ours(expr: &str) -> String {
    format!("({expr}) and on (job, instance) payments_build_info{{@}}")
}
