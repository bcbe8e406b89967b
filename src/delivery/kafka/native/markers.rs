//! The pause between a producer's transactions.
//!
//! Kafka writes a transaction's markers after it has answered that it ends. Who adds a partition to the
//! next one before that is refused, and librdkafka asks again only after 20 ms
//! (`CONCURRENT_TRANSACTIONS` in rdkafka_txnmgr.c). How long the markers take is a matter of the brokers,
//! so the pause is learnt: a little shorter after each transaction that went through at once, and longer
//! again after one that did not.

use std::time::{Duration, Instant};

/// With this pause, and without, a commit took 5 ms and 35, at 1,000 messages a second on 2 busy cores.
const LONGEST: Duration = Duration::from_millis(5);
const SHORTER: Duration = Duration::from_micros(5);
const LONGER: Duration = Duration::from_millis(1);
/// A transaction whose messages took this long has been refused once, as far as can be seen.
const REFUSED: Duration = Duration::from_millis(20);

pub(super) struct Markers {
    pause: Duration,
    ended: Option<Instant>,
    first_sent: Option<Instant>,
}

impl Markers {
    pub(super) fn new() -> Self {
        Markers { pause: LONGEST, ended: None, first_sent: None }
    }

    /// A transaction was answered to have ended.
    pub(super) fn ended(&mut self) {
        self.ended = Some(Instant::now());
    }

    /// Waits for what is left of the pause.
    pub(super) fn wait(&mut self) {
        if let Some(ended) = self.ended.take() {
            std::thread::sleep(self.pause.saturating_sub(ended.elapsed()));
        }
        self.first_sent = None;
    }

    /// A message is on its way.
    pub(super) fn sent(&mut self) {
        self.first_sent.get_or_insert_with(Instant::now);
    }

    /// All messages are taken.
    pub(super) fn taken(&mut self) {
        if let Some(sent) = self.first_sent.take() {
            self.learn(sent.elapsed());
        }
    }

    fn learn(&mut self, took: Duration) {
        self.pause = match took < REFUSED {
            true => self.pause.saturating_sub(SHORTER),
            false => (self.pause + LONGER).min(LONGEST),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_follows_what_the_broker_needs() {
        let mut markers = Markers::new();
        let needed = Duration::from_millis(2);
        let mut refused = 0;
        for transaction in 0..8000 {
            let too_soon = markers.pause < needed;
            refused += u32::from(too_soon && transaction >= 4000);
            markers.learn(if too_soon { REFUSED } else { REFUSED / 4 });
            assert!(markers.pause <= LONGEST);
        }
        assert!((1..=40).contains(&refused), "{refused}");
        assert!(markers.pause < needed + LONGER + SHORTER, "{:?}", markers.pause);
    }
}
