//! Looks again and again, while a relay runs and somebody asks for its metrics, at what waits in its
//! shards and whether the delivery answers: an idle relay asks Kafka for nothing. It has a connection
//! of its own, and the bounds of [`crate::outbox::Outbox::backlog`]; nothing waits for it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::delivery::Delivery;
use crate::error::Result;
use crate::id::ShardIndex;
use crate::outbox::{Outbox, OutboxSource};
use crate::relay::Tally;

/// The pause between two looks,
const PAUSE: Duration = Duration::from_secs(10);
/// and how much longer than a look it is at least,
const PAUSE_PER_LOOK: u32 = 10;
/// up to this: of one that took long, as on a machine that stood still, nobody is to wait minutes for the next.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// The first looks follow each other faster, so that a fresh relay soon tells what waits.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Looks for as long as it is let.
pub(super) async fn run(
    source: Arc<dyn OutboxSource>,
    delivery: Arc<dyn Delivery>,
    tally: Arc<Tally>,
) -> Infallible {
    let mut outbox = None;
    let mut pause = FIRST_PAUSE;
    loop {
        tokio::time::sleep(pause).await;
        let began = Instant::now();
        if look(&*source, &mut outbox, &tally).await.is_err() {
            // The error is counted, and told by who shows it.
            outbox = None;
            tally.shards.iter().for_each(|shard| shard.note_waiting(None));
        }
        pause = pause_behind(began.elapsed(), pause);
        let delivery = Arc::clone(&delivery);
        let _ = tokio::task::spawn_blocking(move || delivery.id()).await;
    }
}

/// The pause behind a look that took so long, with this pause before it.
fn pause_behind(look: Duration, before: Duration) -> Duration {
    (2 * before).min(PAUSE).max((PAUSE_PER_LOOK * look).min(PAUSE_MAX))
}

async fn look(source: &dyn OutboxSource, outbox: &mut Option<Box<dyn Outbox>>, tally: &Tally) -> Result<()> {
    let connected = match outbox {
        Some(connected) => connected,
        None => outbox.insert(source.connect().await?),
    };
    for (number, shard) in tally.shards.iter().enumerate() {
        let Some(position) = shard.position() else { continue };
        let number = ShardIndex(u16::try_from(number).unwrap_or(u16::MAX));
        shard.note_waiting(Some(connected.backlog(number, &position).await?));
        shard.note_aside(connected.count_set_aside(number).await?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_the_looks_and_have_bounds() {
        let pause = |look_ms, before| pause_behind(Duration::from_millis(look_ms), before);
        assert_eq!(pause(5, FIRST_PAUSE), 2 * FIRST_PAUSE);
        assert_eq!(pause(5, PAUSE), PAUSE);
        assert_eq!(pause(3_000, PAUSE), Duration::from_secs(30));
        assert_eq!(pause(12_000, PAUSE), PAUSE_MAX);
        assert_eq!(pause(5, PAUSE_MAX), PAUSE, "it is one look's only");
    }
}
