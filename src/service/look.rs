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
/// and how much longer than a look it is at least.
const PAUSE_PER_LOOK: u32 = 10;
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
        pause = (2 * pause).min(PAUSE).max(PAUSE_PER_LOOK * began.elapsed());
        let delivery = Arc::clone(&delivery);
        let _ = tokio::task::spawn_blocking(move || delivery.id()).await;
    }
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
