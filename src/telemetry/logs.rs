//! Log lines: one JSON object (or one readable line) per event.
//!
//! Every line carries the trace and span it belongs to, taken from the active OpenTelemetry context. Fields of the
//! event stand at the top level; a field that would hide one of ours gets an underscore behind its name. What the
//! caller wrote passes the tripwire in `redact`; ids of ours, words of closed vocabularies and figures, which make up most
//! of a canonical line, have no text of anybody. A line that cannot be written is lost rather than waited for.

mod sink;

use std::cell::Cell;
use std::fmt::{self, Write as _};

use chrono::{DateTime, SecondsFormat, Utc};
use opentelemetry::trace::{SpanId, TraceId};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use uuid::Uuid;

use super::facts::Value;
use super::labels::LogLevel;
use super::{TelemetryConfig, canonical, record, redact, traces};

pub(super) use self::sink::{LastLines, Lines, MemorySink, Sink};

/// A value longer than this is cut.
const VALUE_BYTES: usize = 1024;
/// A text in an event of somebody else's code is cut here: what stands in it is not ours to know.
const FOREIGN_VALUE_BYTES: usize = 64;
const OWN_FIELDS: [&str; 12] = [
    "ts", "level", "target", "msg", "trace_id", "span_id", "service", "version", "revision", "env", "instance", "role",
];

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For a terminal.
    Human,
    /// One JSON object per line, for machines.
    Json,
}

/// The layer that writes lines.
pub(super) struct LogLayer {
    format: LogFormat,
    sink: Sink,
    /// `,"service":…` for the JSON form: the same for every line.
    constants: String,
}

impl LogLayer {
    pub(super) fn new(config: &TelemetryConfig, sink: Sink) -> Self {
        let mut constants = String::from(r#","service":"paygauge""#);
        let named = [
            ("version", config.service_version),
            ("revision", config.revision),
            ("env", &config.environment),
            ("instance", &instance()),
            ("role", config.role),
        ];
        for (name, value) in named {
            append(&mut constants, format_args!(r#","{name}":"#));
            push_json(&mut constants, value);
        }
        Self { format: config.log_format, sink, constants }
    }

    /// Writes the line of an event.
    fn line(&self, event: &Event<'_>, room: &mut Room) {
        let ids = traces::current_ids();
        let mut fields = Fields {
            json: self.format == LogFormat::Json,
            value_bytes: if is_ours(event.metadata().target()) { VALUE_BYTES } else { FOREIGN_VALUE_BYTES },
            room,
        };
        event.record(&mut fields);
        canonical::each(|name, value| fields.pair(name, value));
        let json = fields.json;
        match self.format {
            LogFormat::Json => self.json(event, room, ids),
            LogFormat::Human => human(event, room, ids),
        }
        room.said.push_str(&room.texts);
        match redact::redact(room.said.as_bytes(), json, record::log_redaction) {
            Some(clean) => room.line.push_str(&String::from_utf8_lossy(&clean)),
            None => room.line.push_str(&room.said),
        }
        room.line.push_str(&room.ours);
        room.line.push_str(if json { "}\n" } else { "\n" });
    }

    /// What stands before the event's fields, and its message. Only the second can hold what must not be there; scanning
    /// ids would now and then take one for a card number.
    fn json(&self, event: &Event<'_>, room: &mut Room, ids: Option<(TraceId, SpanId)>) {
        let metadata = event.metadata();
        let level = LogLevel::of(*metadata.level());
        room.line.push_str("{\"ts\":\"");
        room.clock.tell(Utc::now(), &mut room.line);
        room.line.extend(["\",\"level\":\"", level.as_str(), "\",\"target\":"]);
        push_json(&mut room.line, metadata.target());
        if let Some(ids) = ids {
            let line = &mut room.line;
            traces::with_texts(ids, |trace, span| {
                line.extend([",\"trace_id\":\"", trace, "\",\"span_id\":\"", span, "\""]);
            });
        }
        room.line.push_str(&self.constants);
        room.said.push_str(r#","msg":"#);
        push_json(&mut room.said, &room.message);
    }
}

fn is_ours(target: &str) -> bool {
    target.starts_with("paygauge")
}

/// Which process this is: the host's name, which is the pod's in Kubernetes, and the process's number.
fn instance() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    format!("{}:{}", if host.is_empty() { "unknown" } else { host }, std::process::id())
}

fn human(event: &Event<'_>, room: &mut Room, ids: Option<(TraceId, SpanId)>) {
    let metadata = event.metadata();
    room.clock.tell(Utc::now(), &mut room.line);
    append(&mut room.line, format_args!(" {:>5} {}", metadata.level(), metadata.target()));
    if let Some(ids) = ids {
        traces::with_texts(ids, |trace, _| room.line.extend([" [", trace, "]"]));
    }
    // A line break in a message would let a caller forge a second line.
    let message = room.message.escape_debug().to_string().replace("\\\"", "\"").replace("\\'", "'");
    room.said.extend([" ", &message]);
}

/// The moment of the last line up to its second, which the next ones are likely to share.
#[derive(Default)]
struct Clock {
    second: Option<i64>,
    text: String,
}

impl Clock {
    /// RFC 3339, to the microsecond.
    fn tell(&mut self, now: DateTime<Utc>, to: &mut String) {
        if self.second != Some(now.timestamp()) {
            self.second = Some(now.timestamp());
            self.text = now.to_rfc3339_opts(SecondsFormat::Secs, true);
        }
        // A leap second is told as chrono does: by the second before it.
        let micros = now.timestamp_subsec_micros() % 1_000_000;
        // The one in front keeps the zeros behind the point.
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(micros + 1_000_000).get(1..).unwrap_or_default();
        to.extend([self.text.trim_end_matches('Z'), ".", digits, "Z"]);
    }
}

fn append(text: &mut String, arguments: fmt::Arguments<'_>) {
    let written = text.write_fmt(arguments);
    debug_assert!(written.is_ok(), "writing to a String cannot fail");
}

fn push_json(text: &mut String, value: &str) {
    if value.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        text.extend(["\"", value, "\""]);
        return;
    }
    // Strings always serialize; the empty string stands in for what cannot happen.
    text.push_str(&serde_json::to_string(value).unwrap_or_else(|_| String::from("\"\"")));
}

thread_local! {
    /// Kept from line to line: a line of a kilobyte and its parts would be too large for what an allocator has at hand.
    static ROOM: Cell<Room> = Cell::default();
}

/// Where a line is put together.
#[derive(Default)]
struct Room {
    message: String,
    /// Fields that anybody may have written.
    texts: String,
    /// The message, as it is written, and the fields behind it.
    said: String,
    /// Ids of ours, words of closed vocabularies, counts and durations of a canonical line.
    ours: String,
    line: String,
    clock: Clock,
}

impl Room {
    fn clear(&mut self) {
        for part in [&mut self.message, &mut self.texts, &mut self.said, &mut self.ours, &mut self.line] {
            part.clear();
        }
    }
}

/// The fields of one event, written out as they are visited.
struct Fields<'a> {
    json: bool,
    /// A longer text is cut.
    value_bytes: usize,
    room: &'a mut Room,
}

impl Fields<'_> {
    fn bare(&mut self, name: &str, value: impl fmt::Display) {
        push_bare(&mut self.room.texts, self.json, name, value);
    }

    fn text(&mut self, name: &str, value: &str) {
        if name == "message" {
            self.room.message.push_str(cut(value, VALUE_BYTES));
        } else {
            push_text(&mut self.room.texts, self.json, name, cut(value, self.value_bytes));
        }
    }

    /// A field of a canonical line.
    fn pair(&mut self, name: &str, value: &Value) {
        let (to, json) = (&mut self.room.ours, self.json);
        match value {
            Value::Text(text) => self.text(name, text),
            Value::Known(text) => push_words(to, json, name, [text]),
            Value::Word(word) => push_words(to, json, name, [word]),
            Value::Words(one, two) => push_words(to, json, name, [one, ".", two]),
            Value::Id(prefix, id) => {
                let mut hex = Uuid::encode_buffer();
                push_words(to, json, name, [prefix, "_", id.as_simple().encode_lower(&mut hex)]);
            }
            Value::Whole(number) => {
                push_own_name(to, json, name);
                to.push_str(itoa::Buffer::new().format(*number));
            }
            Value::Millis(millis) => {
                push_own_name(to, json, name);
                millis.push_to(to);
            }
        }
    }
}

fn push_name(to: &mut String, json: bool, name: &str) {
    let clash = if OWN_FIELDS.contains(&name) { "_" } else { "" };
    if json {
        // Names are ours or a crate's identifiers: nothing in them needs escaping.
        to.extend([",\"", name, clash, "\":"]);
    } else {
        to.extend([" ", name, clash, "="]);
    }
}

fn push_bare(to: &mut String, json: bool, name: &str, value: impl fmt::Display) {
    push_name(to, json, name);
    append(to, format_args!("{value}"));
}

/// A field's name in a canonical line: none of them is one of those that every line has.
fn push_own_name(to: &mut String, json: bool, name: &str) {
    debug_assert!(!OWN_FIELDS.contains(&name), "{name} would hide another");
    to.extend(if json { [",\"", name, "\":"] } else { [" ", name, "="] });
}

/// Nothing in what we write ourselves needs escaping.
fn push_words<const N: usize>(to: &mut String, json: bool, name: &str, words: [&str; N]) {
    push_own_name(to, json, name);
    if json {
        to.push('"');
    }
    to.extend(words);
    if json {
        to.push('"');
    }
}

fn push_text(to: &mut String, json: bool, name: &str, value: &str) {
    push_name(to, json, name);
    if json {
        push_json(to, value);
    } else if value.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '\\'))
        || value.is_empty()
    {
        append(to, format_args!("{value:?}"));
    } else {
        to.push_str(value);
    }
}

fn cut(value: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(value.len())).rev().find(|end| value.is_char_boundary(*end));
    end.and_then(|end| value.get(..end)).unwrap_or_default()
}

impl Visit for Fields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.bare(field.name(), value);
        } else {
            self.text(field.name(), "not a number");
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.bare(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.bare(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.bare(field.name(), value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let message = &mut self.room.message;
            append(message, format_args!("{value:?}"));
            message.truncate(cut(message, VALUE_BYTES).len());
        } else {
            self.text(field.name(), &format!("{value:?}"));
        }
    }
}

impl<S: Subscriber> Layer<S> for LogLayer {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        // A field that writes a line while it is shown finds an empty room.
        let mut room = ROOM.take();
        self.line(event, &mut room);
        self.sink.write(room.line.as_bytes());
        room.clear();
        ROOM.set(room);
        record::log_line(LogLevel::of(*event.metadata().level()));
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::telemetry::{Parts, TracesConfig};

    fn lines(log_format: LogFormat, act: impl FnOnce()) -> Vec<String> {
        let memory = MemorySink::default();
        let config = TelemetryConfig {
            log_format,
            log_filter: String::new(),
            traces: TracesConfig::none(),
            service_version: "1.2.3",
            revision: "abc",
            environment: "te\"st".to_owned(),
            role: "worker",
            parts: Parts::ALL,
        };
        let layer = LogLayer::new(&config, Sink::Memory(memory.clone()));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), act);
        memory.lines()
    }

    #[test]
    fn a_json_line_holds_the_event_flat_and_says_who_wrote_it() {
        let lines = lines(LogFormat::Json, || {
            tracing::warn!(target: "paygauge::x", level = "mine", amount = 5_i64, ok = true, ratio = 0.5, nan = f64::NAN,
                key = "pgsk_abcdefgh", absent = Option::<&str>::None, "said \"hi\"\nand left");
        });
        let [line] = lines.as_slice() else { panic!("one event, one line: {lines:?}") };
        let read: serde_json::Value = serde_json::from_str(line).expect("a line is JSON");
        for (name, value) in [
            ("level", serde_json::json!("warn")),
            ("level_", serde_json::json!("mine")),
            ("target", serde_json::json!("paygauge::x")),
            ("msg", serde_json::json!("said \"hi\"\nand left")),
            ("service", serde_json::json!("paygauge")),
            ("version", serde_json::json!("1.2.3")),
            ("env", serde_json::json!("te\"st")),
            ("revision", serde_json::json!("abc")),
            ("role", serde_json::json!("worker")),
            ("amount", serde_json::json!(5)),
            ("ok", serde_json::json!(true)),
            ("ratio", serde_json::json!(0.5)),
            ("nan", serde_json::json!("not a number")),
            ("key", serde_json::json!("pgsk_[redacted]")),
        ] {
            assert_eq!(read[name], value, "{name}");
        }
        assert!(read.get("absent").is_none());
        let instance = read["instance"].as_str().expect("a text");
        assert!(instance.ends_with(&format!(":{}", std::process::id())), "{instance}");
        let ts = read["ts"].as_str().expect("a text");
        assert!(DateTime::parse_from_rfc3339(ts).is_ok() && ts.ends_with('Z') && ts.len() == 27, "{ts}");
    }

    #[test]
    fn a_readable_line_is_one_line_and_is_masked_too() {
        let lines = lines(LogFormat::Human, || {
            tracing::info!(target: "paygauge::x", reason = "two words", to = "a@example.com", "first\nsecond");
        });
        let [line] = lines.as_slice() else { panic!("one event, one line: {lines:?}") };
        assert!(line.ends_with(" INFO paygauge::x first\\nsecond reason=\"two words\" to=[redacted]"), "{line}");
        assert!(!line.contains('\n'));
    }

    #[test]
    fn the_moment_is_told_to_the_microsecond_whatever_was_told_before() {
        let mut clock = Clock::default();
        for nanos in [999_999_999, 1_000_000_000, 1_000_001_999, 61_000_000_000, 0] {
            let (now, mut told) = (DateTime::from_timestamp_nanos(nanos), String::new());
            clock.tell(now, &mut told);
            assert_eq!(told, now.to_rfc3339_opts(SecondsFormat::Micros, true));
        }
    }

    #[test]
    fn a_long_value_is_cut_between_characters() {
        let long = "가".repeat(VALUE_BYTES);
        assert_eq!(cut(&long, VALUE_BYTES).len(), VALUE_BYTES - VALUE_BYTES % 3);
        assert_eq!(cut("short", VALUE_BYTES), "short");
    }

    #[test]
    fn texts_in_events_of_other_peoples_code_are_cut_short() {
        let long = "x".repeat(500);
        let lines = lines(LogFormat::Json, || {
            tracing::info!(target: "hyper::client", url = long.as_str(), bytes = 500, "theirs");
            tracing::info!(target: "paygauge::x", url = long.as_str(), "ours");
        });
        let length = |at: usize| {
            let line = lines.get(at).and_then(|line| serde_json::from_str::<serde_json::Value>(line).ok());
            line.and_then(|line| line["url"].as_str().map(str::len))
        };
        assert_eq!((length(0), length(1)), (Some(FOREIGN_VALUE_BYTES), Some(500)));
    }
}
