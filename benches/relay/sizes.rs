//! Backlogs of several sizes, and one behind dead rows that a held snapshot keeps: what an empty
//! poll and a piece of the backlog take, and how fast the relay is beside the bare producer.

use onecommit::protocol::position::Position;
use onecommit::protocol::snapshot::Snapshot;

use crate::backlog::{Table, connect};
use crate::figure::Budget::{AtLeast, AtMost, None as Free};
use crate::figure::{Figure, median};
use crate::ours::Installed;
use crate::reading::{Reader, snapshot_now};
use crate::run::{check_count, wait_until_delivered};
use crate::{Options, Result, Servers, bare};

/// All others are compared with this one.
const REFERENCE: u64 = 1_000_000;
/// Larger ones are measured once, as each run takes minutes.
const SEVERAL_ROUNDS: u64 = 1_000_000;
/// Smaller ones are a batch or two: the few milliseconds that those take say how the two producers
/// happened to begin, not how fast they are.
const COMPARED: u64 = 50_000;
/// Ids that the last pieces of a backlog have.
const LAST_IDS: u64 = 30_000;

/// What was measured over one backlog.
struct Case {
    name: String,
    size: u64,
    empty_poll_ms: Vec<f64>,
    /// Where in the backlog, and microseconds a message.
    pieces_us: Vec<(&'static str, Vec<f64>)>,
    /// Of the relay's rate to the bare producer's.
    ratios: Vec<f64>,
}

/// Measures all sizes.
pub(crate) async fn measure(servers: &Servers, options: &Options) -> Result<Vec<Figure>> {
    let mut cases = Vec::new();
    for size in &options.sizes {
        cases.push(backlog(servers, options, *size).await?);
    }
    cases.push(behind_dead_rows(servers, options).await?);
    let reference = options.sizes.iter().position(|size| *size == REFERENCE).unwrap_or(0);
    Ok(cases.iter().flat_map(|case| case.figures(&cases[reference])).collect())
}

async fn backlog(servers: &Servers, options: &Options, size: u64) -> Result<Case> {
    let name = format!("{} rows", short(size));
    let (empty_poll_ms, pieces_us, ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut case = Case { name, size, empty_poll_ms, pieces_us, ratios };
    let rounds = if (COMPARED..=SEVERAL_ROUNDS).contains(&size) { options.rounds } else { 1 };
    for round in 0..rounds {
        let installed = Installed::create(servers, options).await?;
        installed.database.fill(Table::Outbox, &installed.topic, size).await?;
        if round == 0 {
            let mut reader = Reader::connect(&installed.database).await?;
            let now = snapshot_now(&installed.database).await?;
            reader.stand_at(&Position::finished(now.clone()))?;
            case.empty_poll_ms = reader.empty_polls_ms().await?;
            let origin = Position::before_any_snapshot();
            case.pieces_us.push(("beginning", reader.pieces_us(&origin).await?));
            if size > LAST_IDS {
                case.read_further(&mut reader, &Snapshot::empty(), &now, 0).await?;
            }
        }
        if size < COMPARED {
            installed.remove(servers).await?;
        } else {
            case.ratios.push(ratio(servers, installed, size).await?);
        }
    }
    Ok(case)
}

/// The rows below are dead, and no vacuum may remove them.
async fn behind_dead_rows(servers: &Servers, options: &Options) -> Result<Case> {
    let size = options.dead_rows;
    let installed = Installed::create(servers, options).await?;
    let database = &installed.database;
    database.fill(Table::Outbox, &installed.topic, size).await?;
    let holder = connect(&database.url).await?;
    holder.batch_execute("begin isolation level repeatable read; select pg_current_snapshot()").await?;
    let client = database.client().await?;
    client.batch_execute("delete from onecommit.outbox; checkpoint").await?;
    let before = snapshot_now(database).await?;
    let mut reader = Reader::connect(database).await?;
    reader.stand_at(&Position::finished(before))?;
    // A relay that runs has read something since, and knows from which id on new rows are.
    database.fill(Table::Outbox, &installed.topic, 1).await?;
    reader.drain().await?;
    let prev = snapshot_now(database).await?;
    reader.stand_at(&Position::finished(prev.clone()))?;
    let empty_poll_ms = reader.empty_polls_ms().await?;
    client.batch_execute("delete from onecommit.outbox").await?;
    database.fill(Table::Outbox, &installed.topic, size).await?;
    let now = snapshot_now(database).await?;
    let pieces_us = vec![("beginning", reader.pieces_us(&Position::finished(prev.clone())).await?)];
    let name = format!("{0} rows behind {0} dead ones", short(size));
    let mut case = Case { name, size, empty_poll_ms, pieces_us, ratios: Vec::new() };
    if size > LAST_IDS {
        case.read_further(&mut reader, &prev, &now, size + 1).await?;
    }
    case.ratios.push(ratio(servers, installed, size).await?);
    drop(holder);
    Ok(case)
}

/// The relay's rate by the bare producer's.
async fn ratio(servers: &Servers, installed: Installed, size: u64) -> Result<f64> {
    let done = wait_until_delivered(servers, &installed.topic, size, installed.relay()?)?;
    drop(done.process);
    check_count(servers, &installed.topic, size)?;
    installed.remove(servers).await?;
    let bare = bare::measure(servers, size)?;
    let ours_s = (done.written.last - done.written.first).as_secs_f64();
    Ok(bare.delivered_s / ours_s)
}

impl Case {
    /// In the middle and at the end of the window from `prev` to `this`, whose ids follow `first`.
    async fn read_further(
        &mut self,
        reader: &mut Reader,
        prev: &Snapshot,
        this: &Snapshot,
        first: u64,
    ) -> Result<()> {
        for (place, last) in [("middle", self.size / 2), ("end", self.size - LAST_IDS)] {
            let (prev, this) = (prev.clone(), Some(this.clone()));
            let last = i64::try_from(first + last)?;
            let position = Position::Snapshots { prev, this, last };
            self.pieces_us.push((place, reader.pieces_us(&position).await?));
        }
        Ok(())
    }

    fn figures(&self, reference: &Case) -> Vec<Figure> {
        let name = &self.name;
        let mut figures =
            vec![Figure::new(format!("{name}: empty poll, ms"), AtMost(1.0), self.empty_poll_ms.clone())];
        for (place, values) in &self.pieces_us {
            let what = format!("{name}: piece at the {place}, µs a message");
            figures.push(Figure::new(what, Free, values.clone()));
        }
        if !self.ratios.is_empty() {
            let ratio = format!("{name}: relay : bare producer");
            figures.push(Figure::new(ratio, Free, self.ratios.clone()));
        }
        let at = &reference.name;
        if self.name == *at {
            return figures;
        }
        let first = middle(&reference.pieces_us[0].1);
        for (place, values) in &self.pieces_us {
            let what = format!("{name}: piece at the {place}, of that at the beginning of {at}");
            figures.push(Figure::new(what, AtMost(1.2), vec![middle(values) / first]));
        }
        if !self.ratios.is_empty() && !reference.ratios.is_empty() {
            let what = format!("{name}: ratio to the bare producer, of that of {at}");
            let ratio = middle(&self.ratios) / middle(&reference.ratios);
            figures.push(Figure::new(what, AtLeast(0.8), vec![ratio]));
        }
        figures
    }
}

/// As people write large round numbers.
fn short(count: u64) -> String {
    match count {
        millions if millions % 1_000_000 == 0 => format!("{} M", millions / 1_000_000),
        thousands if thousands % 1000 == 0 => format!("{} k", thousands / 1000),
        other => other.to_string(),
    }
}

fn middle(values: &[f64]) -> f64 {
    let mut ascending = values.to_vec();
    ascending.sort_by(f64::total_cmp);
    median(&ascending)
}
