//! Carries an adoption out.
//!
//! In this order, so that it may be cut off anywhere and run again: the leases of all shards; the
//! epochs, behind which no relay writes to the outbox any more; the fences at the delivery; once more
//! what was shown; the outbox's rows; the birth records in the delivery; last of all, in one
//! transaction, what the outbox notes. Until then a relay refuses, or it finds a shard that is born
//! again and goes on as it may.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::found::{Found, FoundShard, FoundZookeeper};
use super::look::{LONG_REQUEST, expect_same, expect_unchanged};
use crate::config::Config;
use crate::delivery::{Delivery, ShardDelivery};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Epoch, RelayId, ShardIndex};
use crate::outbox::Outbox;
use crate::protocol::progress::Progress;
use crate::relay::Keeper;
use crate::service::alone::wait_until_alone;
use crate::service::build;
use crate::service::init::blocking;
use crate::zookeeper;

const OPERATION: &str = "adopt";
/// A topic log knows epochs that no progress names; so often the next one tried is twice as far above.
const EPOCHS_TRIED: u32 = 40;
/// A relay that is cut off leaves its leases to time out; so does this.
const LEAVE_LIMIT: Duration = Duration::from_secs(10);

/// Takes what was `found`, and shown to a person, as the new identity. Refused where it is another one
/// now, or a relay lives. May be run again after any error. `begin` is told each step.
pub async fn adopt(config: &Config, found: &Found, begin: &(dyn Fn(&str) + Sync)) -> Result<()> {
    let participant = build::outbox(config, &found.participant)?;
    found.expect_no_relay(OPERATION)?;
    if let (Some(settings), Some(known)) = (build::zookeeper(config), found.zookeeper)
        && known != FoundZookeeper::Known
    {
        begin("preparing ZooKeeper");
        zookeeper::adopt(&settings, &config.namespace, found.installation.incarnation).await?;
    }
    let scope = build::scope(config, &found.participant, participant, found.installation.incarnation);
    let delivery = build::delivery(config, scope)?;
    begin("waiting until no relay lives");
    let relay = RelayId::random();
    let lease = build::lease(config, participant, &found.installation, relay).await?;
    let keeper = Keeper::start(lease);
    let outbox = build::source_within(config, participant, LONG_REQUEST).connect_to_adopt().await?;
    let adoption = Adoption { found, delivery, keeper: keeper.clone(), outbox, begin };
    let adopted = adoption.run(relay).await;
    let _ = tokio::time::timeout(LEAVE_LIMIT, keeper.leave()).await;
    adopted
}

struct Adoption<'a> {
    found: &'a Found,
    delivery: Arc<dyn Delivery>,
    keeper: Keeper,
    outbox: Box<dyn Outbox>,
    begin: &'a (dyn Fn(&str) + Sync),
}

impl Adoption<'_> {
    async fn run(mut self, relay: RelayId) -> Result<()> {
        self.keeper.join().await?;
        wait_until_alone(&self.keeper, relay, OPERATION).await?;
        (self.begin)("taking the shards");
        self.check_identity().await?;
        expect_unchanged(&self.delivery, self.found).await?;
        let delivery_id = self.make_delivery().await?;
        let mut epochs = BTreeMap::new();
        for shard in &self.found.shards {
            let known = shard.progress.as_ref().map_or(0, |progress| progress.epoch);
            let epoch = self.claim(shard.shard, shard.row.epoch.max(Epoch(known))).await?;
            epochs.insert(shard.shard, epoch);
        }
        let anew: Vec<&FoundShard> = self.found.shards.iter().filter(|shard| shard.unfit.is_some()).collect();
        let mut deliveries = Vec::new();
        for shard in &anew {
            let cleared = shard.progress.as_ref().map_or(Vec::new(), |progress| progress.cleared.clone());
            deliveries.push((shard.shard, self.fence(shard, &mut epochs).await?, cleared));
        }
        self.check_identity().await?;
        let claimed: Vec<(ShardIndex, Epoch)> =
            epochs.iter().map(|(shard, epoch)| (*shard, *epoch)).collect();
        let anew: Vec<ShardIndex> = anew.iter().map(|shard| shard.shard).collect();
        (self.begin)("preparing the outbox");
        self.outbox.prepare_adoption(&claimed, &anew).await?;
        (self.begin)("writing the new progress");
        for (shard, delivery, cleared) in deliveries {
            self.check_leases()?;
            self.bear(epochs[&shard], cleared, delivery).await.map_err(|error| error.with("shard", shard))?;
        }
        self.outbox.note_adoption(&claimed, &anew, &delivery_id).await
    }

    fn check_leases(&self) -> Result<()> {
        if self.keeper.seen.borrow().is_fresh() {
            return Ok(());
        }
        let why = "the leases could not be kept for long enough: run this again";
        Err(Error::new(ErrorKind::Unclear, OPERATION, why))
    }

    /// The database is the one that was shown, and nobody has adopted it meanwhile.
    async fn check_identity(&mut self) -> Result<()> {
        let same = self.outbox.identity().await?.is_same(&self.found.database)
            && self.outbox.installation().await? == self.found.installation;
        if same { Ok(()) } else { Err(changed()) }
    }

    /// Makes the progress topic (or the topic log) where it is missing; the id of what is there then.
    async fn make_delivery(&self) -> Result<String> {
        let delivery = Arc::clone(&self.delivery);
        let id = blocking(move || {
            delivery.init()?;
            delivery.id()
        })
        .await?;
        match &self.found.delivery_id {
            Some(shown) if *shown != id => Err(changed()),
            _ => Ok(id),
        }
    }

    async fn claim(&mut self, shard: ShardIndex, above: Epoch) -> Result<Epoch> {
        self.check_leases()?;
        let Some(epoch) = self.keeper.take(shard, above).await? else {
            let why = "a relay has taken the shard meanwhile: stop it, and run this again";
            return Err(Error::new(ErrorKind::Refused, OPERATION, why).with("shard", shard));
        };
        self.outbox.claim(shard, epoch).await?;
        Ok(epoch)
    }

    /// Takes the shard at the delivery: whoever delivered it before commits nothing any more. What was
    /// shown of its progress has to be still the last.
    async fn fence(
        &mut self,
        shard: &FoundShard,
        epochs: &mut BTreeMap<ShardIndex, Epoch>,
    ) -> Result<Box<dyn ShardDelivery>> {
        let number = shard.shard;
        let mut step = 1;
        for _ in 0..EPOCHS_TRIED {
            let (delivery, epoch) = (Arc::clone(&self.delivery), epochs[&number]);
            let opened = blocking(move || {
                let mut opened = delivery.open(number, epoch)?;
                let found = opened.progress();
                Ok((opened, found))
            });
            match opened.await {
                Ok((opened, found)) => {
                    let found = match found {
                        Err(error) if error.kind() != ErrorKind::Refused => return Err(error),
                        found => found.ok().flatten(),
                    };
                    expect_same(shard, found.as_ref())?;
                    return Ok(opened);
                }
                Err(error) if error.kind() != ErrorKind::Fenced => return Err(error),
                Err(_) => {}
            }
            let epoch = self.claim(number, Epoch(epochs[&number].0 + step)).await?;
            epochs.insert(number, epoch);
            step *= 2;
        }
        let why = "the delivery has taken the shard for a later owner again and again";
        Err(Error::new(ErrorKind::Fenced, OPERATION, why).with("shard", number))
    }

    /// Commits the record of a shard that has seen nothing. What is known to be `cleared` of the messages
    /// that were set aside stays so: it was delivered, and its record may still be there.
    async fn bear(
        &self,
        epoch: Epoch,
        cleared: Vec<Uuid>,
        mut delivery: Box<dyn ShardDelivery>,
    ) -> Result<()> {
        let (shards, database) = (self.found.installation.shards, self.found.database.clone());
        let birth = Progress::birth(epoch, shards, database, self.outbox.origin());
        let birth = Progress { cleared, ..birth };
        blocking(move || {
            delivery.begin()?;
            delivery.seal(&birth)?;
            delivery.commit()
        })
        .await
    }
}

fn changed() -> Error {
    let why = "what was found has changed since it was shown: run this again";
    Error::new(ErrorKind::Refused, OPERATION, why)
}
