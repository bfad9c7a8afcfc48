//! What this process remembers for itself: all there is without Redis, and the fallback while Redis is away.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The most texts that are remembered.
const TEXTS_MAX: usize = 2_000;

/// The texts of one process.
#[derive(Default)]
pub struct Local {
    texts: Mutex<HashMap<String, Kept>>,
    generation: AtomicU64,
}

struct Kept {
    text: Arc<str>,
    generation: u64,
    read_at: Instant,
}

impl Local {
    /// The generation that what is read from now on belongs to.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// A text of the present generation that is younger than `life`.
    pub fn get(&self, name: &str, life: Duration) -> Option<Arc<str>> {
        let texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = texts.get(name).filter(|kept| kept.generation == self.generation())?;
        (kept.read_at.elapsed() < life).then(|| Arc::clone(&kept.text))
    }

    /// Remembers what a reader that began in `generation` has read, if that is the present one.
    pub fn store(&self, name: &str, generation: u64, text: Arc<str>, life: Duration) {
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        let present = self.generation();
        if generation != present {
            return;
        }
        if texts.len() >= TEXTS_MAX && !texts.contains_key(name) {
            texts.retain(|_, kept| kept.generation == present && kept.read_at.elapsed() < life);
            if texts.len() >= TEXTS_MAX {
                texts.clear();
            }
        }
        texts.insert(name.to_owned(), Kept { text, generation, read_at: Instant::now() });
    }

    /// Begins a new generation.
    pub fn forget(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(3_600);

    #[test]
    fn what_was_read_before_a_change_is_not_given_after_it() {
        let local = Local::default();
        let before = local.generation();
        local.store("a", before, Arc::from("old"), LIFE);
        assert_eq!(local.get("a", LIFE).as_deref(), Some("old"));
        local.forget();
        assert_eq!(local.get("a", LIFE), None);
        local.store("a", before, Arc::from("read before the change, stored after it"), LIFE);
        assert_eq!(local.get("a", LIFE), None);
        local.store("a", local.generation(), Arc::from("new"), LIFE);
        assert_eq!(local.get("a", LIFE).as_deref(), Some("new"));
        assert_eq!(local.get("a", Duration::ZERO), None, "its life is over");
    }

    #[test]
    fn any_number_of_names_needs_bounded_memory() {
        let local = Local::default();
        for number in 0..TEXTS_MAX * 3 {
            local.store(&number.to_string(), 0, Arc::from("text"), LIFE);
            assert!(local.texts.lock().expect("texts").len() <= TEXTS_MAX);
        }
    }
}
