//! The relay's own reads, timed alone: through the library, on a connection like the relay's, for
//! all shards.

use std::time::Instant;

use onecommit::id::{Epoch, ShardIndex};
use onecommit::outbox::postgres::{Limits, PostgresSource};
use onecommit::outbox::{Outbox, OutboxSource as _};
use onecommit::protocol::position::Position;
use onecommit::protocol::snapshot::Snapshot;

use crate::Result;
use crate::backlog::Database;
use crate::ours::REQUEST_LIMIT;

const EMPTY_POLLS: usize = 200;
const PIECES: usize = 15;
/// No relay has claimed the shards yet.
const EPOCH: Epoch = Epoch(0);

/// Reads for all shards of an outbox that no relay reads.
pub(crate) struct Reader {
    outbox: Box<dyn Outbox>,
    shards: u16,
}

impl Reader {
    pub(crate) async fn connect(database: &Database) -> Result<Self> {
        let (url, schema) = (database.url.parse()?, "onecommit".to_string());
        let limits = Limits::default();
        let source = PostgresSource { url, schema, request_limit: REQUEST_LIMIT, limits };
        let mut outbox = source.connect().await?;
        let shards = outbox.installation().await?.shards;
        Ok(Reader { outbox, shards })
    }

    /// Goes on from a position.
    pub(crate) fn stand_at(&mut self, position: &Position) -> Result<()> {
        for shard in (0..self.shards).map(ShardIndex) {
            self.outbox.add(shard, EPOCH, position, None)?;
        }
        Ok(())
    }

    /// Reads everything that waits.
    pub(crate) async fn drain(&mut self) -> Result<()> {
        loop {
            let batch = self.outbox.read().await?;
            if batch.chunks.is_empty() && !batch.more {
                return Ok(());
            }
        }
    }

    /// How long a poll takes that finds nothing: in milliseconds, with the reader behind all rows.
    pub(crate) async fn empty_polls_ms(&mut self) -> Result<Vec<f64>> {
        let mut found = Vec::new();
        for _ in 0..EMPTY_POLLS {
            let began = Instant::now();
            let batch = self.outbox.read().await?;
            found.push(began.elapsed().as_secs_f64() * 1e3);
            if batch.more || !batch.chunks.is_empty() {
                return Err("a poll that should find nothing found something".into());
            }
        }
        Ok(found)
    }

    /// How long a piece takes, from a position on: in microseconds a message. Where fewer pieces
    /// wait, they are read several times.
    pub(crate) async fn pieces_us(&mut self, from: &Position) -> Result<Vec<f64>> {
        self.stand_at(from)?;
        let (mut found, mut since_start) = (Vec::new(), 0);
        // How many rows fit is learnt from the first piece.
        while found.len() <= PIECES {
            let began = Instant::now();
            let batch = self.outbox.read().await?;
            let took_us = began.elapsed().as_secs_f64() * 1e6;
            let messages: usize = batch.chunks.iter().map(|chunk| chunk.messages.len()).sum();
            if messages > 0 {
                found.push(took_us / messages as f64);
                since_start += 1;
            } else if !batch.more {
                if std::mem::take(&mut since_start) == 0 {
                    return Err(format!("nothing waits: {from}").into());
                }
                self.stand_at(from)?;
            }
        }
        Ok(found.split_off(1))
    }
}

/// What a snapshot taken now sees.
pub(crate) async fn snapshot_now(database: &Database) -> Result<Snapshot> {
    let client = database.client().await?;
    let now: String = client.query_typed("select pg_current_snapshot()::text", &[]).await?[0].get(0);
    Ok(now.parse()?)
}
