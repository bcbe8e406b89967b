//! What one shard's deliverer does with messages that can't be delivered: it keeps the sieve that
//! passes over them, records them in the outbox, and looks from time to time whether something is to
//! be done with them. While nothing is set aside it costs nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::settings::RelaySettings;
use super::wait::chance;
use crate::config::{Followed, OnPoison};
use crate::delivery::{Fault, ShardDelivery};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Epoch, MessageId, ShardIndex};
use crate::message::StoredMessage;
use crate::outbox::{Due, HeldTopic, Outbox, OutboxSource, Resumed, Voucher};
use crate::protocol::sieve::{Aside, Fate, Sieve};

/// Between two looks whether a person has asked for anything.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// So many messages that were set aside are delivered in one transaction.
const DUE_MESSAGES: u32 = 256;

/// A topic that takes nothing.
struct Hold {
    failures: u32,
    until: Instant,
    /// It seems to take messages again; the hold ends when it has.
    on_trial: bool,
}

impl Hold {
    fn new(until: Instant) -> Self {
        Hold { failures: 0, until, on_trial: false }
    }
}

/// What a look found.
pub(super) enum Look {
    /// Nothing is to be done.
    Nothing,
    /// These are to be delivered or discarded.
    Due(Vec<Due>),
    /// A person has declared a topic dead, or taken that back: the shard begins anew.
    BeginAnew,
}

/// One shard's messages that are set aside.
pub(super) struct Asides {
    sieve: Sieve,
    shard: ShardIndex,
    epoch: Epoch,
    holds: BTreeMap<String, Hold>,
    unrecorded_holds: Vec<HeldTopic>,
    dead: Vec<String>,
    source: Arc<dyn OutboxSource>,
    outbox: Option<Box<dyn Outbox>>,
    settings: Followed<RelaySettings>,
    runtime: Handle,
    next_look: Instant,
    /// Something may be due without anybody having asked: a key or a topic was set free.
    drains: bool,
}

impl Asides {
    /// As the outbox knows them.
    pub(super) fn new(
        (shard, epoch): (ShardIndex, Epoch),
        resumed: Resumed,
        source: Arc<dyn OutboxSource>,
        settings: Followed<RelaySettings>,
        runtime: Handle,
    ) -> Self {
        let Resumed { recorded, parked, held, mut dead, count, voucher: _ } = resumed;
        dead.sort();
        let now = Instant::now();
        Asides {
            holds: held.iter().map(|topic| (topic.clone(), Hold::new(now))).collect(),
            sieve: Sieve::new(recorded, parked, held, dead.clone(), count),
            shard,
            epoch,
            unrecorded_holds: Vec::new(),
            dead,
            source,
            outbox: None,
            settings,
            runtime,
            next_look: now,
            drains: count > 0,
        }
    }

    /// Whether every message is delivered.
    pub(super) fn is_open(&self) -> bool {
        self.sieve.is_open()
    }

    /// What happens to a message that comes in its order, or, with `again`, to one that was set aside.
    pub(super) fn fate(&self, stored: &StoredMessage, again: bool) -> Fate {
        if again { self.sieve.fate_again(stored) } else { self.sieve.fate(stored) }
    }

    /// The position has passed these messages.
    pub(super) fn passed<'a>(&mut self, messages: impl IntoIterator<Item = &'a StoredMessage>) {
        self.sieve.passed(messages);
    }

    /// When to look next; None while there is nothing to look for.
    pub(super) fn next_look(&self) -> Option<Instant> {
        let nothing = self.sieve.count() == 0 && self.holds.is_empty() && self.dead.is_empty();
        let held_until = self.holds.values().filter(|hold| !hold.on_trial).map(|hold| hold.until).min();
        let next = if self.drains { Instant::now() } else { self.next_look };
        (!nothing).then(|| held_until.map_or(next, |until| until.min(next)))
    }

    /// `stored` can't be delivered: it is judged, or its topic is put on hold. Fails where the topic's
    /// messages are to stop the shard.
    pub(super) fn fault(&mut self, stored: &StoredMessage, fault: Fault) -> Result<()> {
        let reason = match fault {
            Fault::Topic { topic, reason } => {
                self.hold(&topic, reason);
                return Ok(());
            }
            Fault::Message { reason, .. } => reason,
        };
        let topic = stored.message.topic();
        let (shard, message_id) = (self.shard, stored.message_id);
        let on_poison = self.settings.now().on_poison.get(topic).copied().unwrap_or_default();
        let parks = match on_poison {
            OnPoison::Park => true,
            OnPoison::Pass => false,
            OnPoison::Stop => {
                let why = format!(
                    "a message can't be delivered, and `on_poison` says that its topic's messages stop the \
                     shard: {reason}"
                );
                let error = Error::new(ErrorKind::Invalid, "deliver message", why);
                return Err(error.with("topic", topic).with("message_id", message_id));
            }
        };
        tracing::warn!(%shard, %message_id, topic, reason, "a dead letter: see `onecommit dead-letter`");
        self.sieve.judge(stored, reason, parks);
        Ok(())
    }

    fn hold(&mut self, topic: &str, reason: String) {
        let (shard, now) = (self.shard, Instant::now());
        let hold = self.holds.entry(topic.to_string()).or_insert_with(|| Hold::new(now));
        if hold.failures == 0 {
            tracing::warn!(%shard, topic, reason, "a topic on hold: its messages wait, others go on");
        }
        hold.failures += 1;
        hold.until = now + self.settings.now().retry.wait(hold.failures, chance());
        hold.on_trial = false;
        self.sieve.hold(topic);
        self.unrecorded_holds.push(HeldTopic { topic: topic.to_string(), reason });
    }

    /// Records what is set aside, durably, and returns a barrier that was committed with it; only
    /// that, where there is nothing to record.
    pub(super) fn record(&mut self, asides: &[Aside]) -> Result<Voucher> {
        let wanted = self.sieve.count() + asides.len() as u64;
        let most = self.settings.now().set_aside_max;
        if !asides.is_empty() && wanted > most {
            let why = format!(
                "{wanted} messages would be set aside, and `set_aside_max` allows {most}: have them retried or \
                 discarded with `onecommit dead-letter`, or bring back the topics on hold"
            );
            return Err(Error::new(ErrorKind::Failed, "set messages aside", why));
        }
        let (shard, epoch, held) = (self.shard, self.epoch, std::mem::take(&mut self.unrecorded_holds));
        let recorded =
            self.with_outbox(async |outbox| outbox.set_aside(shard, epoch, asides, &held).await)?;
        self.sieve.recorded(asides, &recorded.new);
        Ok(recorded.voucher)
    }

    /// Whether holds are to be recorded although no message is.
    pub(super) fn has_unrecorded(&self) -> bool {
        !self.unrecorded_holds.is_empty()
    }

    /// Looks what is to be done; topics whose time has come are tried.
    pub(super) fn look(&mut self, delivery: &mut dyn ShardDelivery) -> Result<Look> {
        self.next_look = Instant::now() + LOOK_PAUSE;
        let shard = self.shard;
        let asked = self.with_outbox(async |outbox| outbox.asked(shard).await)?;
        if asked.dead != self.dead {
            return Ok(Look::BeginAnew);
        }
        self.try_topics(delivery)?;
        if !asked.anything && !self.drains {
            return Ok(Look::Nothing);
        }
        let held = self.sieve.held();
        let due = self.with_outbox(async |outbox| outbox.due(shard, &held, DUE_MESSAGES).await)?;
        self.drains = !due.is_empty();
        let on_trial = self.holds.values().any(|hold| hold.on_trial);
        Ok(if due.is_empty() && !on_trial { Look::Nothing } else { Look::Due(due) })
    }

    fn try_topics(&mut self, delivery: &mut dyn ShardDelivery) -> Result<()> {
        let now = Instant::now();
        for (topic, hold) in &mut self.holds {
            if hold.on_trial || hold.until > now {
                continue;
            }
            if delivery.topic_fault(topic)?.is_some() {
                hold.failures += 1;
                hold.until = now + self.settings.now().retry.wait(hold.failures, chance());
            } else {
                hold.on_trial = true;
                self.sieve.release(topic);
                self.drains = true;
            }
        }
        Ok(())
    }

    /// Removes the records of `cleared` messages, and ends the holds of topics that took theirs. None
    /// where there is neither: no record has changed, so no progress needs another barrier for it.
    pub(super) fn clear(&mut self, due: &[Due], cleared: &[MessageId]) -> Result<Option<Voucher>> {
        let on_trial = self.holds.iter().filter(|(_, hold)| hold.on_trial);
        let released: Vec<String> = on_trial.map(|(topic, _)| topic.clone()).collect();
        if cleared.is_empty() && released.is_empty() {
            return Ok(None);
        }
        let (shard, epoch) = (self.shard, self.epoch);
        let voucher =
            self.with_outbox(async |outbox| outbox.clear(shard, epoch, cleared, &released).await)?;
        for due in due.iter().filter(|due| cleared.contains(&due.message_id)) {
            self.sieve.cleared(due.parked_key);
        }
        for topic in released {
            tracing::info!(%shard, topic, "the topic takes messages again");
            self.holds.remove(&topic);
        }
        Ok(Some(voucher))
    }

    /// Records verdicts on messages that were set aside before.
    pub(super) fn judge_again(&mut self, due: &[Due], asides: &[Aside]) -> Result<Voucher> {
        let voucher = self.record(asides)?;
        let freed = |due: &&Due| asides.iter().any(|one| one.id == due.id && one.parked_key.is_none());
        for due in due.iter().filter(freed) {
            self.sieve.unparked(due.parked_key);
        }
        Ok(voucher)
    }

    /// Fails where another relay has claimed the shard.
    pub(super) fn check_epoch(&mut self) -> Result<()> {
        let (shard, epoch) = (self.shard, self.epoch);
        let row = self.with_outbox(async |outbox| outbox.shard(shard).await)?;
        if row.epoch == epoch {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Fenced, "begin anew", "another relay has taken over").with("shard", shard))
    }

    fn with_outbox<T>(&mut self, call: impl AsyncFnOnce(&mut dyn Outbox) -> Result<T>) -> Result<T> {
        let (source, connected) = (Arc::clone(&self.source), self.outbox.take());
        let called: Result<(T, Box<dyn Outbox>)> = self.runtime.block_on(async {
            let mut outbox = match connected {
                Some(outbox) => outbox,
                None => source.connect().await?,
            };
            let answer = call(&mut *outbox).await?;
            Ok((answer, outbox))
        });
        let (answer, outbox) = called?;
        self.outbox = Some(outbox);
        Ok(answer)
    }
}
