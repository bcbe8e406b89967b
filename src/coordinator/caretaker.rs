//! What a person sees of transactions that are not at their end, and has done about them, beside the nodes
//! that live: by no other rules than theirs.
//!
//! Relies on one session with the decision log, in which whatever is taken over is also read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use uuid::Uuid;

use super::held::Members;
use super::identity::Scope;
use super::legacy::Batches;
use super::member::Member;
use super::settings::CoordinatorSettings;
use crate::decision_log::{DecisionLog, Legacy, LogSession, Registered};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{CoordinatorId, Incarnation, Namespace, ParticipantName};
use crate::participant::PreparedBranch;
use crate::protocol::branch::BranchName;
use crate::protocol::decision::Record;

/// How often taking over is tried.
const TRIES: u32 = 5;

/// See the module.
pub struct Caretaker {
    pub(super) scope: Arc<Scope>,
    pub(super) members: Members,
    /// Participants that are configured and can't be looked at, with the reason.
    pub(super) away: BTreeMap<ParticipantName, Error>,
    pub(super) session: Box<dyn LogSession>,
    /// Whatever works in this scope ends with it.
    _closing: watch::Sender<bool>,
}

/// Whether somebody settles what a coordinator has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoordinatorState {
    /// It lives, and settles it itself.
    Alive,
    /// It is dead, and a node that lives settles it now.
    Recovering,
    /// It is dead, and nobody has taken over.
    Dead,
    /// The decision log does not know it.
    Orphan,
}

impl CoordinatorState {
    /// The word in JSON and for people.
    pub fn as_str(self) -> &'static str {
        match self {
            CoordinatorState::Alive => "alive",
            CoordinatorState::Recovering => "recovering",
            CoordinatorState::Dead => "dead",
            CoordinatorState::Orphan => "orphan",
        }
    }
}

/// A coordinator, as it is known to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenCoordinator {
    /// Which one.
    pub id: CoordinatorId,
    /// The machine it runs or ran on; empty where nobody knows.
    pub host: String,
    /// Its process there.
    pub pid: u32,
    /// Whether somebody settles what it has begun.
    pub state: CoordinatorState,
}

/// A branch that waits for its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenBranch {
    /// Whose it is.
    pub name: BranchName,
    /// The role that prepared it.
    pub owner: String,
    /// For how long it has waited.
    pub age: Duration,
}

impl From<PreparedBranch> for SeenBranch {
    fn from(PreparedBranch { name, owner, age }: PreparedBranch) -> Self {
        SeenBranch { name, owner, age }
    }
}

/// A coordinator with all that the decision log has of it.
pub(super) struct Recorded {
    pub(super) seen: SeenCoordinator,
    pub(super) record: Record,
    pub(super) batches: Batches,
}

impl Caretaker {
    /// Opens a session with the decision log, for the participants that answer; `away` are the others.
    pub async fn open(
        namespace: Namespace,
        incarnation: Incarnation,
        members: Vec<Member>,
        away: BTreeMap<ParticipantName, Error>,
        log: Arc<dyn DecisionLog>,
        settings: CoordinatorSettings,
    ) -> Result<Self> {
        let session = log.open().await?;
        let (closing, closed) = watch::channel(false);
        let scope = Arc::new(Scope::new(
            namespace,
            incarnation,
            log,
            settings.into(),
            closed,
            Arc::new(Uuid::new_v4),
        ));
        let members = members.into_iter().map(|member| (member.name.clone(), Arc::new(member))).collect();
        Ok(Caretaker { scope, members, away, session, _closing: closing })
    }

    /// For how many days outcomes are kept.
    pub fn keep_days(&self) -> u32 {
        self.scope.settings.now().keep_days
    }

    /// Every coordinator with a record.
    pub(super) async fn all_recorded(&self) -> Result<Vec<Recorded>> {
        let mut all = Vec::new();
        for registered in self.session.coordinators().await? {
            all.extend(self.recorded(registered).await?);
        }
        Ok(all)
    }

    /// None where it was removed meanwhile.
    pub(super) async fn recorded(&self, registered: Registered) -> Result<Option<Recorded>> {
        let Registered { coordinator: id, is_live } = registered;
        // Before the record, with which the fence goes: otherwise a coordinator that was removed in between would be
        // told to live.
        let is_taken_over = self.session.is_taken_over(id).await?;
        let Some((record, batches)) = self.session.look(id).await? else { return Ok(None) };
        let state = match is_live {
            true if is_taken_over => CoordinatorState::Recovering,
            true => CoordinatorState::Alive,
            false => CoordinatorState::Dead,
        };
        let seen = SeenCoordinator { id, host: record.host.clone(), pid: record.pid, state };
        Ok(Some(Recorded { seen, record, batches }))
    }

    /// Again for a moment where a node has taken over that finds nothing to be done.
    pub(super) async fn take_over(&self, operation: &'static str, id: CoordinatorId) -> Result<Legacy> {
        for failures in 1..=TRIES {
            if let Some(legacy) = self.session.take_over(id).await? {
                return Ok(legacy);
            }
            let wait = self.scope.settings.now().retry.wait(failures, 0.5);
            tokio::time::sleep(wait).await;
        }
        Err(taken(operation, id))
    }

    /// The prepared branches of this installation in a participant.
    pub(super) async fn branches(&self, member: &Member) -> Result<Vec<SeenBranch>> {
        let listed = member.port.prepared().await.map_err(|error| error.with("participant", &member.name))?;
        let is_ours = |branch: &PreparedBranch| {
            branch.name.is_of(&self.scope.namespace, self.scope.incarnation)
                && branch.name.participant == member.name
        };
        Ok(listed.1.into_iter().filter(is_ours).map(SeenBranch::from).collect())
    }
}

/// Why something is left in a participant that is not configured.
pub(super) fn not_configured() -> Error {
    let why = "a dead coordinator may have prepared something in a participant that is not in this configuration: it is \
               settled where that one is configured; or give it up with `onecommit transaction forget`, where it is \
               gone for good";
    Error::new(ErrorKind::Refused, "settle transactions", why)
}

/// Somebody was faster.
pub(super) fn taken(operation: &'static str, id: CoordinatorId) -> Error {
    let why = "somebody has become alive for this coordinator meanwhile, or has settled it: run this again";
    Error::new(ErrorKind::Refused, operation, why).with("coordinator", id)
}

impl SeenCoordinator {
    /// One without a record.
    pub(super) fn orphan(id: CoordinatorId) -> Self {
        SeenCoordinator { id, host: String::new(), pid: 0, state: CoordinatorState::Orphan }
    }

    /// Nothing is done for one that somebody is alive for.
    pub(super) fn expect_dead(&self, operation: &'static str) -> Result<()> {
        let refused = match self.state {
            CoordinatorState::Dead | CoordinatorState::Orphan => return Ok(()),
            CoordinatorState::Alive => {
                let why = "this coordinator lives, and settles its transactions itself: its program's log says what \
                           keeps it. To have others settle them, end the program";
                Error::new(ErrorKind::Refused, operation, why)
            }
            CoordinatorState::Recovering => {
                let why = "a relay, or a program that has opened onecommit, is settling what this dead coordinator \
                           left: run this again, and where it stays so, that one's log says what keeps it";
                Error::new(ErrorKind::Refused, operation, why)
            }
        };
        Err(refused.with("coordinator", self.id).with("host", &self.host).with("pid", self.pid))
    }
}
