//! One reader for many: whoever wants a text that somebody is reading waits for that one's result.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// How often one waits for others who then give up, before reading by oneself.
const TRIES: usize = 3;

type Text = Option<Arc<str>>;

/// Who is reading what.
#[derive(Default)]
pub struct Flights {
    under_way: Arc<Mutex<HashMap<String, Flight>>>,
}

struct Flight {
    generation: u64,
    since: Instant,
    result: watch::Receiver<Landing>,
}

#[derive(Clone)]
enum Landing {
    /// Still reading.
    NotYet,
    /// That is the text, or there is none.
    Read(Text),
    /// Reading failed.
    Failed,
}

/// What somebody who wants a text is to do.
pub enum Seat {
    /// Take this: it was read by another since one asked, or shortly before.
    Passenger(Text),
    /// Read it, and tell those who wait.
    Pilot(Pilot),
    /// Read it for oneself.
    OnFoot,
}

/// Tells those who wait; dropped without a word, one of them takes over.
pub struct Pilot {
    under_way: Arc<Mutex<HashMap<String, Flight>>>,
    name: String,
    result: watch::Sender<Landing>,
}

impl Flights {
    /// Waits for another's result, or says to read. Nobody waits for one who began in another generation, or longer ago
    /// than `age_max`.
    pub async fn board(&self, name: &str, generation: u64, age_max: Duration) -> Seat {
        for _ in 0..TRIES {
            let mut result = match self.enter(name, generation, age_max) {
                Ok(pilot) => return Seat::Pilot(pilot),
                Err(result) => result,
            };
            let landed = result.wait_for(|landing| !matches!(landing, Landing::NotYet)).await;
            match landed.map(|landing| landing.clone()) {
                Ok(Landing::Read(text)) => return Seat::Passenger(text),
                Ok(Landing::Failed | Landing::NotYet) => return Seat::OnFoot,
                // That one's client has left.
                Err(_) => {}
            }
        }
        Seat::OnFoot
    }

    fn enter(&self, name: &str, generation: u64, age_max: Duration) -> Result<Pilot, watch::Receiver<Landing>> {
        let mut under_way = lock(&self.under_way);
        if let Some(flight) = under_way.get(name)
            && flight.generation == generation
            && flight.since.elapsed() < age_max
            && flight.result.has_changed().is_ok()
        {
            return Err(flight.result.clone());
        }
        let (sender, result) = watch::channel(Landing::NotYet);
        under_way.insert(name.to_owned(), Flight { generation, since: Instant::now(), result });
        Ok(Pilot { under_way: Arc::clone(&self.under_way), name: name.to_owned(), result: sender })
    }
}

impl Seat {
    /// The text was read.
    pub fn land(self, text: Text) {
        self.end(Landing::Read(text));
    }

    /// Reading failed.
    pub fn crash(self) {
        self.end(Landing::Failed);
    }

    fn end(self, landing: Landing) {
        match self {
            Self::Pilot(pilot) => {
                pilot.result.send_replace(landing);
            }
            Self::Passenger(_) | Self::OnFoot => {}
        }
    }
}

impl Drop for Pilot {
    fn drop(&mut self) {
        let mut under_way = lock(&self.under_way);
        // A later one may have the name by now.
        if under_way.get(&self.name).is_some_and(|flight| flight.result.same_channel(&self.result.subscribe())) {
            under_way.remove(&self.name);
        }
    }
}

fn lock(under_way: &Mutex<HashMap<String, Flight>>) -> MutexGuard<'_, HashMap<String, Flight>> {
    under_way.lock().unwrap_or_else(PoisonError::into_inner)
}
