//! Counts panics of the product: whatever panics in this process and not in a test or in a fake.

use std::panic;
use std::sync::{Mutex, Once, PoisonError};

/// wiremock panics when the body of a request ends before its length.
const FAKE: &str = "/wiremock-";
/// What a test has armed panics here, because it was told to.
const ARMED: &str = "src/crash/armed.rs";

static SEEN: Mutex<Vec<String>> = Mutex::new(Vec::new());
static WATCHING: Once = Once::new();

/// Takes note of every panic from now on.
pub fn watch() {
    WATCHING.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            let ours = ["tests/", "pg-mock/", ARMED];
            if !ours.iter().any(|ours| place.starts_with(ours)) && !place.contains(FAKE) {
                SEEN.lock().unwrap_or_else(PoisonError::into_inner).push(info.to_string());
            }
            before(info);
        }));
    });
}

/// What was noted so far.
pub fn seen() -> Vec<String> {
    SEEN.lock().unwrap_or_else(PoisonError::into_inner).clone()
}
