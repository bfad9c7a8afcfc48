//! Panics as log lines: where, in which thread, and no text that was put together at run time.
//!
//! The standard hook prints a panic's whole text to standard error, where log shippers find it. An `unwrap` somewhere
//! in a library shows the value it failed on, and that may be a row, a body or a key. A text that stands in the program
//! as it is tells nothing of anybody and is kept. Whoever looks at a terminal gets the standard hook's words as well.

use std::panic::PanicHookInfo;
use std::sync::Once;

use super::LogFormat;

/// Takes over from the standard hook, once per process; whatever hook was set before goes on only for a terminal.
pub(super) fn install(format: LogFormat) {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            tell(info);
            if format == LogFormat::Human {
                before(info);
            }
        }));
    });
}

fn tell(info: &PanicHookInfo<'_>) {
    let location = info.location().map(ToString::to_string);
    let thread = std::thread::current();
    let reason = info.payload().downcast_ref::<&'static str>().copied();
    tracing::error!(
        target: "paygauge::panic",
        event = "panic",
        location,
        thread = thread.name(),
        reason,
        "panicked"
    );
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::Value;

    use super::*;
    use crate::telemetry::for_tests;

    /// The line of a panic in a thread with this name.
    fn line(thread: &str) -> Value {
        let all = for_tests().lines().into_iter().filter_map(|line| serde_json::from_str::<Value>(&line).ok());
        all.filter(|line| line["msg"] == "panicked").find(|line| line["thread"] == thread).expect("a line")
    }

    fn panic_in(thread: &str, act: impl FnOnce() + Send + 'static) {
        static HOOKED: Once = Once::new();
        static SEEN: AtomicUsize = AtomicUsize::new(0);
        HOOKED.call_once(|| {
            let _running = for_tests();
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                SEEN.fetch_add(1, Ordering::SeqCst);
                tell(info);
                before(info);
            }));
        });
        let spawned = std::thread::Builder::new().name(thread.to_owned()).spawn(act).expect("a thread");
        assert!(spawned.join().is_err());
        assert!(SEEN.load(Ordering::SeqCst) > 0);
    }

    #[test]
    fn a_panic_is_one_line_that_says_where_and_never_what_it_was_about() {
        panic_in("panics-constant", || panic!("a constant text"));
        let told = line("panics-constant");
        assert_eq!((&told["level"], &told["event"]), (&"error".into(), &"panic".into()));
        assert_eq!(told["reason"], "a constant text");
        assert!(told["location"].as_str().is_some_and(|at| at.starts_with("src/telemetry/panics.rs:")), "{told}");

        let holder = String::from("kim-minji");
        panic_in("panics-formatted", move || panic!("no account of {holder}"));
        let told = line("panics-formatted");
        assert!(told.get("reason").is_none() && !told.to_string().contains("kim-minji"), "{told}");
    }
}
