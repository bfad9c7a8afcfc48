//! Where lines go: to standard output through a thread that writes, or into memory for a test.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bytes waiting for a slow reader of standard output; lines beyond are dropped. As many may be with the writer.
const WAITING_BYTES_MAX: usize = 8 * 1024 * 1024;
/// A larger room is given back when it has been written.
const KEPT_BYTES: usize = 256 * 1024;
/// How long lines are gathered.
const GATHER_FOR: Duration = Duration::from_millis(50);
/// How long the end of the process waits for the last lines.
const LAST_LINES_WITHIN: Duration = Duration::from_secs(1);
/// How many lines a memory sink keeps.
const MEMORY_LINES: usize = 50_000;

/// Where lines go.
#[derive(Debug, Clone)]
pub(in crate::telemetry) enum Sink {
    /// Standard output, through a thread of its own: a reader that is slow or stuck costs lines, never a payment.
    Stdout(Arc<Lines>),
    /// Kept for a test, the newest ones.
    Memory(MemorySink),
}

/// Lines kept in memory.
#[derive(Debug, Clone, Default)]
pub(in crate::telemetry) struct MemorySink(Arc<Mutex<VecDeque<String>>>);

impl MemorySink {
    pub(in crate::telemetry) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn push(&self, line: &[u8]) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == MEMORY_LINES {
            lines.pop_front();
        }
        lines.push_back(String::from_utf8_lossy(line).trim_end().to_owned());
    }
}

impl Sink {
    /// Standard output, and what writes the last lines when it is dropped.
    pub(in crate::telemetry) fn stdout() -> (Arc<Lines>, LastLines) {
        Lines::start(WAITING_BYTES_MAX, io::stdout())
    }

    pub(super) fn write(&self, line: &[u8]) {
        match self {
            Self::Stdout(lines) => lines.push(line),
            Self::Memory(memory) => memory.push(line),
        }
    }
}

/// Lines that wait to be written together, in the order in which they came. Whoever adds one copies it behind the others
/// and goes on: it is nobody else's memory, and after each batch the writer rests a little, so that most lines wake nobody.
#[derive(Debug)]
pub(in crate::telemetry) struct Lines {
    waiting: Mutex<Waiting>,
    /// For the writer: the first line after a pause, or the end.
    has_come: Condvar,
    has_ended: Condvar,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Whole lines.
    bytes: Vec<u8>,
    /// Lines that found no room.
    dropped: u64,
    /// Whether the writer sleeps until somebody wakes it.
    is_asleep: bool,
    is_closing: bool,
    has_ended: bool,
}

/// Writes what is left when it is dropped, waiting a second at most.
#[derive(Debug)]
pub(in crate::telemetry) struct LastLines(Arc<Lines>);

impl Drop for LastLines {
    fn drop(&mut self) {
        self.0.close();
        let ended = self.0.has_ended.wait_timeout_while(self.0.waiting(), LAST_LINES_WITHIN, |now| !now.has_ended);
        drop(ended);
    }
}

impl Lines {
    fn start(bytes_max: usize, to: impl io::Write + Send + 'static) -> (Arc<Self>, LastLines) {
        let (has_come, has_ended) = (Condvar::new(), Condvar::new());
        let lines = Arc::new(Self { waiting: Mutex::default(), has_come, has_ended, bytes_max });
        let own = Arc::clone(&lines);
        let thread = std::thread::Builder::new().name("log-writer".to_owned());
        if thread.spawn(move || own.write_all(to)).is_err() {
            // Without a thread, lines are dropped and counted.
            lines.close();
            lines.end();
        }
        (Arc::clone(&lines), LastLines(lines))
    }

    /// How many lines found no room so far.
    pub(in crate::telemetry) fn dropped(&self) -> u64 {
        self.waiting().dropped
    }

    fn push(&self, line: &[u8]) {
        let mut waiting = self.waiting();
        if waiting.is_closing || waiting.bytes.len() + line.len() > self.bytes_max {
            waiting.dropped += 1;
            return;
        }
        waiting.bytes.extend_from_slice(line);
        let was_asleep = std::mem::take(&mut waiting.is_asleep);
        drop(waiting);
        if was_asleep {
            self.has_come.notify_one();
        }
    }

    fn write_all(&self, mut to: impl io::Write) {
        let mut batch = Vec::new();
        while self.next(&mut batch) {
            // If nobody reads any more there is nobody to tell.
            drop(to.write_all(&batch).and_then(|()| to.flush()));
            batch.clear();
            batch.shrink_to(KEPT_BYTES);
            self.rest();
        }
        self.end();
    }

    /// Exchanges an empty batch for the lines that wait, as soon as there are some; `false` if none will come.
    fn next(&self, batch: &mut Vec<u8>) -> bool {
        let mut waiting = self.waiting();
        while waiting.bytes.is_empty() && !waiting.is_closing {
            waiting.is_asleep = true;
            waiting = self.has_come.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::swap(&mut waiting.bytes, batch);
        !batch.is_empty()
    }

    fn rest(&self) {
        drop(self.has_come.wait_timeout_while(self.waiting(), GATHER_FOR, |now| !now.is_closing));
    }

    fn close(&self) {
        self.waiting().is_closing = true;
        self.has_come.notify_one();
    }

    fn end(&self) {
        self.waiting().has_ended = true;
        self.has_ended.notify_all();
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Instant;

    use super::*;

    /// Tells what is written, and waits for a word before each time if it has somebody to wait for.
    struct Told {
        written: Sender<String>,
        may: Option<Receiver<()>>,
    }

    impl io::Write for Told {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Some(may) = &self.may {
                // Without anybody to allow it, it is never written.
                may.recv().map_err(io::Error::other)?;
            }
            let written = self.written.send(String::from_utf8_lossy(bytes).into_owned());
            written.map_err(io::Error::other).map(|()| bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn free(bytes_max: usize) -> (Arc<Lines>, LastLines, Receiver<String>) {
        let (written, told) = channel();
        let (lines, last) = Lines::start(bytes_max, Told { written, may: None });
        (lines, last, told)
    }

    fn stuck(bytes_max: usize) -> (Arc<Lines>, LastLines, Receiver<String>, Sender<()>) {
        let ((written, told), (allow, may)) = (channel(), channel());
        let (lines, last) = Lines::start(bytes_max, Told { written, may: Some(may) });
        // The writer takes this one and is stuck with it.
        lines.push(b"first\n");
        let started = Instant::now();
        while !lines.waiting().bytes.is_empty() {
            assert!(started.elapsed() < Duration::from_secs(30), "nobody writes");
            std::thread::yield_now();
        }
        (lines, last, told, allow)
    }

    #[test]
    fn lines_of_many_threads_come_whole_and_in_the_order_of_each() {
        const OF_EACH: usize = 2_000;
        let (lines, last, told) = free(WAITING_BYTES_MAX);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let lines = &lines;
                scope.spawn(move || {
                    for nth in 0..OF_EACH {
                        lines.push(format!("{thread} {nth} {}\n", "x".repeat(nth % 200)).as_bytes());
                    }
                });
            }
        });
        drop(last);
        let batches: Vec<String> = told.iter().collect();
        assert!(batches.iter().all(|batch| batch.ends_with('\n')), "a line is never torn");
        let mut next = [0; 4];
        for line in batches.concat().lines() {
            let parts: Vec<&str> = line.split(' ').collect();
            let [thread, nth, rest] = parts.as_slice() else { panic!("three parts: {line}") };
            let (thread, nth): (usize, usize) = (thread.parse().expect("a thread"), nth.parse().expect("a number"));
            assert_eq!((nth, rest.len()), (next[thread], nth % 200), "{line}");
            next[thread] += 1;
        }
        assert_eq!((next, lines.dropped()), ([OF_EACH; 4], 0));
    }

    #[test]
    fn lines_that_wait_together_are_written_together_and_the_last_at_the_end() {
        let (lines, last, told, allow) = stuck(100);
        lines.push(b"two\n");
        lines.push(b"three\n");
        allow.send(()).and_then(|()| allow.send(())).expect("a writer");
        drop(last);
        assert_eq!(told.iter().collect::<Vec<_>>(), ["first\n", "two\nthree\n"]);
        lines.push(b"too late\n");
        assert_eq!(lines.dropped(), 1);
    }

    #[test]
    fn what_finds_no_room_is_counted_and_later_lines_are_written_again() {
        let (lines, last, told, allow) = stuck(10);
        for line in ["12345\n", "67890\n", "abc\n", "d\n"] {
            lines.push(line.as_bytes());
        }
        assert_eq!(lines.dropped(), 2, "only whole lines that fit wait");
        allow.send(()).expect("a writer");
        assert_eq!(told.recv().as_deref(), Ok("first\n"));
        allow.send(()).expect("a writer");
        assert_eq!(told.recv().as_deref(), Ok("12345\nabc\n"));
        lines.push(b"67890\n");
        allow.send(()).expect("a writer");
        assert_eq!((told.recv().as_deref(), lines.dropped()), (Ok("67890\n"), 2));
        drop(last);
    }

    #[test]
    fn nobody_waits_for_a_writer_that_is_stuck_and_the_end_only_a_second() {
        let (lines, last, told, allow) = stuck(WAITING_BYTES_MAX);
        let (started, line) = (Instant::now(), [b'x'; 1_024]);
        for _ in 0..20_000 {
            lines.push(&line);
        }
        assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
        assert_eq!(lines.dropped(), 20_000 - 8 * 1_024);
        let started = Instant::now();
        drop(last);
        assert!(started.elapsed() >= LAST_LINES_WITHIN && started.elapsed() < Duration::from_secs(30));
        assert!(told.try_recv().is_err(), "nothing was written");
        drop(allow);
    }
}
