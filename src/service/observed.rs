//! What the relays of this process do, for whoever shows it: numbers, whether their loops turn, and
//! what they can't reach.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use super::build;
use super::follow::Following;
use super::relay_id::OwnId;
use crate::config::Config;
use crate::coordinator::RecoveryTally;
use crate::error::Result;
use crate::id::{ParticipantName, RelayId};
use crate::relay::{Store, Tally};

/// Beside the longest wait that is configured: a loop or call that takes longer is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// The relays of one process, one for each participant with an outbox.
#[derive(Debug)]
pub struct Observed {
    pub(super) id: Arc<OwnId>,
    /// When it was started.
    pub started: SystemTime,
    /// By name.
    pub participants: Vec<(ParticipantName, Arc<Tally>)>,
    /// Whether what waits is looked at again and again: only where somebody asks for it.
    pub(super) looks: bool,
    /// Empty where this process recovers no coordinators, or has yet to open what it does so with.
    pub(super) recovery: Arc<OnceLock<Arc<RecoveryTally>>>,
    /// Which settings it follows that change at run time.
    pub settings: Arc<Following>,
    stuck_after: Duration,
    stopping: AtomicBool,
}

/// Why it is not well, or not ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Whose relay.
    pub participant: ParticipantName,
    /// What can't be reached, or has a call that does not end; None where it is the relay itself.
    pub store: Option<Store>,
    /// Since when, where that is known.
    pub since: Option<SystemTime>,
    /// What is wrong.
    pub what: String,
}

impl Observed {
    /// Nothing has happened yet. An error where no participant has an outbox.
    pub fn new(config: &Config) -> Result<Self> {
        let participants = build::outboxes(config)?;
        let participants = participants
            .into_iter()
            .map(|(name, participant)| (name.clone(), Arc::new(Tally::new(participant.shards))));
        let relay = &config.relay;
        let longest =
            [relay.retry_limit_ms, relay.retry_first_ms, relay.request_timeout_ms, relay.shutdown_timeout_ms];
        let longest = longest.into_iter().max().unwrap_or_default();
        Ok(Observed {
            id: Arc::new(OwnId::new(&config.data_dir)),
            started: SystemTime::now(),
            participants: participants.collect(),
            looks: config.admin.listen.is_some(),
            recovery: Arc::default(),
            settings: Arc::default(),
            stuck_after: STUCK_AFTER + 2 * Duration::from_millis(longest),
            stopping: AtomicBool::new(false),
        })
    }

    /// Under which this process is known to other relays and to `status`.
    pub fn relay(&self) -> RelayId {
        self.id.get()
    }

    /// What it does for dead coordinators; None where it recovers none.
    pub fn recovery(&self) -> Option<&RecoveryTally> {
        self.recovery.get().map(Arc::as_ref)
    }

    /// It was told to stop: it is not ready any more.
    pub fn note_stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether it was told to stop.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Loops that do not turn and calls that do not end: only a restart helps. None of a relay that
    /// has ended: a person has to look at it.
    pub fn stuck(&self) -> Vec<Reason> {
        let mut reasons = Vec::new();
        for (name, tally) in &self.participants {
            let Some(since_turn) = tally.since_turn() else { continue };
            let mut add = |store, what: String, lasts: Duration| {
                let since = SystemTime::now().checked_sub(lasts);
                reasons.push(Reason { participant: name.clone(), store, since, what });
            };
            if since_turn > self.stuck_after {
                add(None, "the supervisor's loop does not turn".to_string(), since_turn);
            }
            for store in Store::ALL {
                if let Some((operation, lasts)) = tally.store(store).longest()
                    && lasts > self.stuck_after
                {
                    add(Some(store), format!("{operation}: it does not end"), lasts);
                }
            }
        }
        reasons
    }

    /// What keeps it from delivering: a relay that takes no part, a store that is away.
    pub fn unready(&self) -> Vec<Reason> {
        let mut reasons = Vec::new();
        for (name, tally) in &self.participants {
            let mut add = |store, since, what: String| {
                reasons.push(Reason { participant: name.clone(), store, since, what });
            };
            if let Some(why) = tally.ended() {
                add(None, None, format!("this participant's relay has ended: {why}"));
                continue;
            }
            for store in Store::ALL {
                if let Some(away) = tally.store(store).away() {
                    add(Some(store), Some(away.since), away.error);
                } else if !tally.store(store).has_answered() {
                    add(Some(store), None, "it has not answered yet".to_string());
                }
            }
            if self.is_stopping() {
                add(None, None, "it was told to stop".to_string());
            } else if !tally.takes_part() {
                add(None, None, "it does not take part among the relays now".to_string());
            }
        }
        reasons
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, ErrorKind};

    fn observed() -> Observed {
        let data_dir = tempfile::tempdir().expect("folder");
        let mut config = Config::from_toml("", []).expect("configuration");
        config.data_dir = data_dir.path().to_path_buf();
        Observed::new(&config).expect("an outbox")
    }

    fn told(reasons: &[Reason]) -> Vec<(Option<Store>, &str)> {
        reasons.iter().map(|reason| (reason.store, reason.what.as_str())).collect()
    }

    #[test]
    fn what_is_away_or_never_answered_is_a_reason() {
        let observed = observed();
        let tally = &observed.participants[0].1;
        tally.outbox.note(&Ok(()));
        tally.leases.note(&Ok(()));
        tally.delivery.note::<()>(&Err(Error::new(ErrorKind::Unreachable, "connect", "closed")));
        let reasons = observed.unready();
        assert_eq!(
            told(&reasons),
            [
                (Some(Store::Delivery), "connect: closed"),
                (None, "it does not take part among the relays now"),
            ]
        );
        assert!(reasons[0].since.is_some());
        tally.note_end(Some("refused".to_string()));
        assert_eq!(told(&observed.unready()), [(None, "this participant's relay has ended: refused")]);
    }

    #[test]
    fn a_loop_that_does_not_turn_is_stuck_until_its_relay_has_ended() {
        let mut observed = observed();
        assert!(observed.stuck().is_empty());
        observed.stuck_after = Duration::ZERO;
        assert_eq!(told(&observed.stuck()), [(None, "the supervisor's loop does not turn")]);
        observed.participants[0].1.note_end(None);
        assert!(observed.stuck().is_empty());
    }
}
