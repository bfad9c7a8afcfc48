//! What is sold, and how much of it.

use chrono::{DateTime, Utc};
use uuid::Uuid;

/// What is sold.
pub(super) struct Goods(Vec<(Uuid, String, i64)>);

impl Goods {
    pub(super) fn new(products: u32, at: DateTime<Utc>) -> Self {
        let price = |number: u32| i64::from(number % 40 + 1) * 500;
        Self((1..=products).map(|number| (id_at(at), format!("Seeded {number}"), price(number))).collect())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(Uuid, String, i64)> {
        self.0.iter()
    }

    /// Some different ones; of two the one nearer to the beginning is chosen, so the first are bought most.
    pub(super) fn choose(&self, count: u32) -> Vec<&(Uuid, String, i64)> {
        let mut chosen = Vec::new();
        for _ in 0..count {
            let place = rand::random_range(0..self.0.len()).min(rand::random_range(0..self.0.len()));
            let fits = |good: &&(Uuid, String, i64)| chosen.iter().all(|(id, ..): &&(Uuid, String, i64)| *id != good.0);
            if let Some(good) = self.0.get(place).filter(fits) {
                chosen.push(good);
            }
        }
        chosen
    }
}

/// An id that was made at a time.
pub(super) fn id_at(at: DateTime<Utc>) -> Uuid {
    let millis = u64::try_from(at.timestamp_millis()).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &rand::random()).into_uuid()
}
