//! Keeps the book and the remembered answers across restarts.
//!
//! Two files: a JSON snapshot, replaced atomically (written beside, then renamed), and a journal of
//! one JSON line per change, appended before the change is answered. A process killed at any moment
//! so loses nothing that it has said; a torn last line is a change nobody was told of. The files are
//! not synced to disk: they survive the death of the process, not of the machine.
//!
//! Used by [`crate::gateway`] only.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::idempotency::Remembered;
use crate::payment::Payment;

/// Journal lines after which a fresh snapshot is due, at the least.
const JOURNAL_LINES: usize = 20_000;

/// Everything that is kept.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub payments: Vec<Payment>,
    pub answers: Vec<Remembered>,
}

/// One change.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    Payment(Box<Payment>),
    Answer(Remembered),
}

pub(crate) struct Store {
    snapshot: PathBuf,
    journal_path: PathBuf,
    journal: File,
    lines: usize,
}

impl Store {
    /// Reads what an earlier run left: oldest version of everything first, so that the last one holds.
    ///
    /// # Errors
    /// When the files cannot be read, or the snapshot is not one of ours.
    pub fn open(path: &Path) -> io::Result<(Store, Kept)> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut kept = match read_if_there(path)? {
            Some(text) => serde_json::from_str::<Kept>(&text).map_err(|error| {
                let what = format!("{} is not a pg-mock state file: {error}", path.display());
                io::Error::new(io::ErrorKind::InvalidData, what)
            })?,
            None => Kept::default(),
        };
        let journal_path = beside(path, "journal");
        let journal_text = read_if_there(&journal_path)?.unwrap_or_default();
        for line in journal_text.lines() {
            // Only the last line can be torn, by a kill in the middle of the write.
            let Ok(line) = serde_json::from_str::<Line>(line) else {
                break;
            };
            kept.apply(line);
        }
        let store = Store { snapshot: path.to_owned(), journal: open_journal(&journal_path)?, journal_path, lines: 0 };
        Ok((store, kept))
    }

    /// Appends changes that belong together, in one write.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn append(&mut self, lines: &[Line]) -> io::Result<()> {
        let mut text = String::new();
        for line in lines {
            text.push_str(&serde_json::to_string(line)?);
            text.push('\n');
        }
        self.lines += lines.len();
        self.journal.write_all(text.as_bytes())
    }

    /// Whether the journal has grown so long that [`Store::compact`] is worth its while.
    pub fn is_long(&self, entries: usize) -> bool {
        self.lines > JOURNAL_LINES.max(entries.saturating_mul(2))
    }

    /// Replaces snapshot and journal by `kept`.
    ///
    /// # Errors
    /// When the files cannot be written; the old ones are then still good.
    pub fn compact(&mut self, kept: &Kept) -> io::Result<()> {
        write_snapshot(&self.snapshot, kept)?;
        File::create(&self.journal_path)?;
        self.journal = open_journal(&self.journal_path)?;
        self.lines = 0;
        Ok(())
    }
}

impl Kept {
    fn apply(&mut self, line: Line) {
        match line {
            Line::Payment(payment) => self.payments.push(*payment),
            Line::Answer(answer) => self.answers.push(answer),
        }
    }
}

fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    PathBuf::from(name)
}

fn read_if_there(path: &Path) -> io::Result<Option<String>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn write_snapshot(path: &Path, kept: &Kept) -> io::Result<()> {
    let draft = beside(path, "draft");
    fs::write(&draft, serde_json::to_vec(kept)?)?;
    fs::rename(&draft, path)
}

fn open_journal(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}
