//! Where lines go: to standard output through a thread that writes, or into memory for a test.

use std::collections::VecDeque;
use std::io::{self, BufWriter, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

/// Lines waiting for a slow reader of standard output; more are dropped.
const WAITING_LINES_MAX: usize = 16_384;
/// How long lines are gathered, and how much is written at once.
const GATHER_FOR: Duration = Duration::from_millis(25);
const GATHERED_BYTES: usize = 64 * 1024;
/// How many lines a memory sink keeps.
const MEMORY_LINES: usize = 50_000;

/// Where lines go.
#[derive(Debug, Clone)]
pub(in crate::telemetry) enum Sink {
    /// Standard output, through a thread of its own: a reader that is slow or stuck costs lines, never a payment.
    Stdout(NonBlocking),
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
    /// Standard output. The guard writes what is left when it is dropped, waiting a second at most.
    pub(in crate::telemetry) fn stdout() -> (Self, WorkerGuard, ErrorCounter) {
        let (writer, guard) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(WAITING_LINES_MAX)
            .thread_name("log-writer")
            .finish(Gathering::new(io::stdout()));
        let dropped = writer.error_counter();
        (Self::Stdout(writer), guard, dropped)
    }

    pub(super) fn write(&self, line: &[u8]) {
        match self {
            // Lines that find no room are dropped and counted; there is nobody else to tell.
            Self::Stdout(writer) => drop(writer.clone().write_all(line)),
            Self::Memory(memory) => memory.push(line),
        }
    }
}

/// Writes lines together: after each batch it rests a little, and what comes meanwhile wakes nobody and goes with the next
/// one. Else each line costs a switch to the writing thread and a call of the kernel.
struct Gathering<W: io::Write>(BufWriter<W>);

impl<W: io::Write> Gathering<W> {
    fn new(to: W) -> Self {
        Self(BufWriter::with_capacity(GATHERED_BYTES, to))
    }
}

impl<W: io::Write> io::Write for Gathering<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write(line)
    }

    /// Called when no line is waiting.
    fn flush(&mut self) -> io::Result<()> {
        let is_empty = self.0.buffer().is_empty();
        self.0.flush()?;
        if !is_empty {
            std::thread::sleep(GATHER_FOR);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_wait_together_are_written_together() {
        struct Calls(Arc<Mutex<Vec<Vec<u8>>>>);
        impl io::Write for Calls {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().expect("not poisoned").push(bytes.to_vec());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let calls = Arc::default();
        let mut gathering = Gathering::new(Calls(Arc::clone(&calls)));
        for line in ["one\n", "two\n"] {
            gathering.write_all(line.as_bytes()).expect("written");
        }
        gathering.flush().expect("flushed");
        let long = vec![b'x'; GATHERED_BYTES + 1];
        gathering.write_all(&long).expect("written");
        gathering.flush().expect("flushed");
        assert_eq!(*calls.lock().expect("not poisoned"), [b"one\ntwo\n".to_vec(), long]);
    }
}
