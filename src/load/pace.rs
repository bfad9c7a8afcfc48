//! When a turn begins: after the last one (closed), or when the clock says so (open).
//!
//! In the open loop a turn has an intended beginning that does not move: a server that stalls finds the waiting in its
//! latencies. A thread keeps the clock, because the runtime's timers know whole milliseconds only.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::options::Extent;

/// Beginnings that may wait for the dispatcher.
const TICKS_AHEAD: usize = 65_536;

/// Drives `clients` buyers, each beginning again at once, until the extent is reached; waits for the last.
///
/// # Errors
/// When a turn panicked.
pub async fn closed<F, W>(clients: u32, extent: Extent, turn: F) -> anyhow::Result<()>
where
    F: Fn(Instant) -> W + Clone + Send + 'static,
    W: Future<Output = ()> + Send,
{
    let begun = Instant::now();
    let taken = Arc::new(AtomicU64::new(0));
    let mut buyers = JoinSet::new();
    for _ in 0..clients {
        let (turn, taken) = (turn.clone(), Arc::clone(&taken));
        buyers.spawn(async move {
            while goes_on(extent, begun, &taken) {
                turn(Instant::now()).await;
            }
        });
    }
    while let Some(ended) = buyers.join_next().await {
        ended?;
    }
    Ok(())
}

fn goes_on(extent: Extent, begun: Instant, taken: &AtomicU64) -> bool {
    match extent {
        Extent::Duration(duration) => begun.elapsed() < duration,
        Extent::Turns(turns) => taken.fetch_add(1, Ordering::Relaxed) < turns,
    }
}

/// Begins a turn for each of `beginnings` if fewer than `in_flight_max` are unfinished, else calls `overflow`; waits for
/// the last.
///
/// # Errors
/// When a turn panicked.
pub async fn open<F, W>(
    mut beginnings: mpsc::Receiver<Instant>,
    in_flight_max: u32,
    turn: F,
    overflow: impl Fn(),
) -> anyhow::Result<()>
where
    F: Fn(Instant) -> W,
    W: Future<Output = ()> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(usize::try_from(in_flight_max)?));
    let mut turns = JoinSet::new();
    while let Some(intended) = beginnings.recv().await {
        while let Some(ended) = turns.try_join_next() {
            ended?;
        }
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            overflow();
            continue;
        };
        let work = turn(intended);
        turns.spawn(async move {
            work.await;
            drop(permit);
        });
    }
    while let Some(ended) = turns.join_next().await {
        ended?;
    }
    Ok(())
}

/// The beginnings of `rate` turns per second, evenly spread, told by a thread of their own.
///
/// # Errors
/// When there is no thread.
pub fn beginnings(rate: f64, extent: Extent) -> std::io::Result<mpsc::Receiver<Instant>> {
    let (tell, told) = mpsc::channel(TICKS_AHEAD);
    let begun = Instant::now();
    std::thread::Builder::new().name("load-clock".to_owned()).spawn(move || {
        let mut number: u32 = 0;
        loop {
            let after = Duration::from_secs_f64(f64::from(number) / rate);
            let is_over = match extent {
                Extent::Duration(duration) => after >= duration,
                Extent::Turns(turns) => u64::from(number) >= turns,
            };
            let intended = begun + after;
            std::thread::sleep(intended.saturating_duration_since(Instant::now()));
            if is_over || tell.blocking_send(intended).is_err() {
                return;
            }
            number = number.saturating_add(1);
        }
    })?;
    Ok(told)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    async fn latencies(in_flight_max: u32, starts: u32, takes: Duration) -> (Vec<u64>, u64) {
        let (tell, told) = mpsc::channel(64);
        let begun = Instant::now();
        let latencies = Arc::new(Mutex::new(Vec::new()));
        let overflown = AtomicU64::new(0);
        let server = Arc::new(tokio::sync::Mutex::new(()));
        let turn = |intended: Instant| {
            let (latencies, server) = (Arc::clone(&latencies), Arc::clone(&server));
            async move {
                let _one_at_a_time = server.lock().await;
                tokio::time::sleep(takes).await;
                latencies.lock().unwrap().push(u64::try_from(intended.elapsed().as_millis()).unwrap());
            }
        };
        let clock = async move {
            for number in 0..starts {
                let intended = begun + Duration::from_millis(100) * number;
                tokio::time::sleep_until(intended).await;
                tell.send(intended).await.unwrap();
            }
        };
        let driven = open(told, in_flight_max, turn, || {
            overflown.fetch_add(1, Ordering::Relaxed);
        });
        let (driven, ()) = tokio::join!(driven, clock);
        driven.unwrap();
        (latencies.lock().unwrap().clone(), overflown.into_inner())
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_server_finds_the_waiting_in_its_latencies() {
        // Every 100 ms a turn that takes 300 ms of a server that serves one: each waits 200 ms longer than the last.
        let (waited, overflown) = latencies(100, 5, Duration::from_millis(300)).await;
        assert_eq!((waited, overflown), (vec![300, 500, 700, 900, 1_100], 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_begin_is_counted_and_not_begun() {
        let (waited, overflown) = latencies(2, 5, Duration::from_millis(1_000)).await;
        assert_eq!((waited, overflown), (vec![1_000, 1_900], 3));
    }

    #[tokio::test]
    async fn a_late_dispatcher_does_not_move_the_intended_beginning() {
        let begun = Instant::now();
        let mut told = beginnings(50.0, Extent::Turns(4)).unwrap();
        tokio::time::sleep(Duration::from_millis(120)).await;
        let mut heard = Vec::new();
        while let Some(intended) = told.recv().await {
            heard.push(intended);
        }
        let gaps: Vec<Duration> = heard.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(gaps, [Duration::from_millis(20); 3], "evenly spread, from {begun:?}");
    }
}
