//! Taking a shard: identity first and read-only, so that a copied configuration never fences
//! production; then the lease, the epoch in the shard's row, the fence at the delivery, identity
//! once more, the proved progress, and what is set aside.

use std::sync::Arc;
use std::time::Duration;

use super::fit::check_progress;
use super::keeper::Keeper;
use super::told::note_error;
use crate::delivery::{Delivery, ShardDelivery};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::{Epoch, ShardIndex};
use crate::outbox::{Installation, Outbox, OutboxSource, Resumed, ShardRow};
use crate::protocol::progress::{DatabaseIdentity, Progress};
use crate::protocol::slot::HASH_VERSION;

const OPERATION: &str = "take shard";
/// How often a progress that does not fit and goes on changing is looked at again.
const LOOKS: u32 = 20;
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// What it takes to take a shard.
#[derive(Clone)]
pub(super) struct Taker {
    pub(super) source: Arc<dyn OutboxSource>,
    pub(super) installation: Installation,
    pub(super) delivery: Arc<dyn Delivery>,
    pub(super) keeper: Keeper,
}

/// A shard that is this relay's, with everything needed to deliver it.
pub(super) struct Taken {
    pub(super) shard: ShardIndex,
    pub(super) epoch: Epoch,
    pub(super) database: DatabaseIdentity,
    pub(super) progress: Progress,
    pub(super) resumed: Resumed,
    /// Whether the shard's row tells of an error, to be cleared when the shard delivers.
    pub(super) had_error: bool,
    pub(super) delivery: Box<dyn ShardDelivery>,
}

impl Taker {
    /// Whether this relay can take shards at all: outbox and delivery answer, and are the right ones.
    pub(super) async fn check(self) -> Result<()> {
        let mut outbox = self.source.connect().await?;
        self.check_identity(&mut *outbox).await.map(|_| ())
    }

    /// Takes `shard`; None where another relay was faster. What keeps it from that is noted in the
    /// shard's row, and taken back here when the try before this one had `failed_before`: a shard
    /// without messages would show it for as long as none come.
    pub(super) async fn take(self, shard: ShardIndex, failed_before: bool) -> Result<Option<Taken>> {
        let source = Arc::clone(&self.source);
        let mut claimed = None;
        let taken = self.take_in_order(shard, &mut claimed).await.map_err(|error| error.with("shard", shard));
        let note = match (&taken, claimed) {
            // A refusal touches nothing; who is fenced has nothing to say of another's shard.
            (Err(error), _) if matches!(error.kind(), ErrorKind::Refused | ErrorKind::Fenced) => None,
            (Err(error), Some(epoch)) => Some((epoch, Some(error.to_string()))),
            (Ok(Some(taken)), _) if failed_before && taken.had_error => Some((taken.epoch, None)),
            _ => None,
        };
        if let Some((epoch, error)) = note {
            note_error(&*source, shard, epoch, error).await;
        }
        taken
    }

    /// `claimed` is the epoch of the shard's row as this relay last saw or wrote it.
    async fn take_in_order(self, shard: ShardIndex, claimed: &mut Option<Epoch>) -> Result<Option<Taken>> {
        let mut outbox = self.source.connect().await?;
        // What may be wrong with the row is said behind the identity.
        *claimed = outbox.shard(shard).await.ok().map(|row| row.epoch);
        let database = self.check_identity(&mut *outbox).await?;
        let delivery = Arc::clone(&self.delivery);
        blocking(move || delivery.check()).await?;
        let (row, seen) = self.look(&mut *outbox, shard, &database).await?;

        let above = seen.map_or(row.epoch, |progress| row.epoch.max(Epoch(progress.epoch)));
        let Some(mut epoch) = self.keeper.take(shard, above).await? else { return Ok(None) };
        failpoint!("relay.take.after_lease")?;
        outbox.claim(shard, epoch).await?;
        *claimed = Some(epoch);

        let delivery = Arc::clone(&self.delivery);
        let mut delivery = blocking(move || delivery.open(shard, epoch)).await?;
        let database = self.check_identity(&mut *outbox).await?;
        let (mut delivery, found) = blocking(move || {
            let found = delivery.progress()?;
            Ok((delivery, found))
        })
        .await?;
        let row = outbox.shard(shard).await?;
        let fits = check_progress(&self.installation, &mut *outbox, shard, &row, &database, found.as_ref());
        if let Err(error) = fits.await {
            // A relay that was paused in here may find what its successor delivers and prunes.
            let taken_over = outbox.shard(shard).await?.epoch > epoch;
            let fenced = || Error::new(ErrorKind::Fenced, OPERATION, "another relay has taken over");
            return Err(if taken_over { fenced() } else { error });
        }

        if let Some(newer) = found.as_ref().filter(|found| found.epoch >= epoch.0) {
            // The lease's store was restored or wiped: its epochs have to overtake the progress
            // before the first batch.
            let Some(raised) = self.keeper.take(shard, Epoch(newer.epoch)).await? else { return Ok(None) };
            epoch = raised;
            outbox.claim(shard, epoch).await?;
            *claimed = Some(epoch);
        }
        let progress = match found {
            Some(progress) => progress,
            None => {
                let birth =
                    Progress::birth(epoch, self.installation.shards, database.clone(), outbox.origin());
                let record = birth.clone();
                delivery = blocking(move || {
                    delivery.begin()?;
                    delivery.seal(&record)?;
                    delivery.commit()?;
                    Ok(delivery)
                })
                .await?;
                birth
            }
        };
        if !row.born {
            outbox.note_birth(shard, epoch).await?;
        }
        let resumed = outbox.resume(shard, epoch, &progress).await?;
        let had_error = row.last_error.is_some();
        Ok(Some(Taken { shard, epoch, database, progress, resumed, had_error, delivery }))
    }

    /// The shard's row and its progress as they can be seen without fencing anybody. A predecessor
    /// may have delivered and pruned what is not to be seen yet, and if it lives it goes on, so what
    /// does not fit is looked at again, until nothing is under way; that no progress is seen proves
    /// nothing yet.
    async fn look(
        &self,
        outbox: &mut dyn Outbox,
        shard: ShardIndex,
        database: &DatabaseIdentity,
    ) -> Result<(ShardRow, Option<Progress>)> {
        let mut refused: Option<Progress> = None;
        let mut looks = 0;
        loop {
            let row = outbox.shard(shard).await?;
            let (delivery, again) = (Arc::clone(&self.delivery), refused.is_some());
            let peek = move || if again { delivery.peek_settled(shard) } else { delivery.peek(shard) };
            let Some(seen) = blocking(peek).await? else { return Ok((row, None)) };
            match (
                check_progress(&self.installation, outbox, shard, &row, database, Some(&seen)).await,
                refused.take(),
            ) {
                (Ok(()), _) => return Ok((row, Some(seen))),
                (Err(error), Some(before)) if before == seen => return Err(error),
                (Err(error), _) if error.kind() != ErrorKind::Refused => return Err(error),
                (Err(error), _) if looks == LOOKS => {
                    let why = "what is delivered goes on by another relay and does not fit to this database: \
                               the configuration or the database may be a copy";
                    return Err(Error::new(ErrorKind::Unreachable, OPERATION, why).caused_by(error));
                }
                (Err(_), _) => refused = Some(seen),
            }
            looks += 1;
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    /// The database, the installation in it and the delivery are the ones that `init` knew.
    async fn check_identity(&self, outbox: &mut dyn Outbox) -> Result<DatabaseIdentity> {
        let found = outbox.installation().await?;
        if found != self.installation {
            let why = "the outbox was set up anew or changed while this relay ran: restart it";
            return Err(refuse(why));
        }
        if found.hash_version != HASH_VERSION {
            let why = format!(
                "the outbox hashes keys by version {}, this release by {HASH_VERSION}",
                found.hash_version
            );
            return Err(refuse(why));
        }
        let delivery = Arc::clone(&self.delivery);
        let id = blocking(move || delivery.id()).await?;
        if id != found.delivery_id {
            let why = format!(
                "the Kafka cluster (or topic log) is another one than the outbox was set up with: what was \
                 delivered is not known here. Give the old one's address, or take this one: `onecommit \
                 adopt {}`",
                found.participant
            );
            return Err(refuse(why).with("expected", &found.delivery_id).with("found", id));
        }
        outbox.identity().await
    }
}

fn refuse(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Refused, OPERATION, why)
}

/// Runs a blocking call of the delivery away from the async threads.
async fn blocking<T: Send + 'static>(call: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(call).await.map_err(|error| {
        Error::new(ErrorKind::Failed, OPERATION, "a call of the delivery ended early").caused_by(error)
    })?
}
