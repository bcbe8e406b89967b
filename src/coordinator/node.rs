//! One process's part in transactions over several databases: begins them, and settles what others
//! have left. It has one coordinator at a time; where that has ended, by a lost session or by another
//! node's takeover, the next one takes its place without a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::dialogue::{Dialogue, Options};
use super::holdings::Holdings;
use super::identity::{Coordinator, NewId, Scope};
use super::locks::Locks;
use super::member::Member;
use super::recover::Recoverer;
use super::settings::CoordinatorSettings;
use super::tally::RecoveryTally;
use crate::config::Followed;
use crate::decision_log::DecisionLog;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Incarnation, Namespace, ParticipantName};
use crate::lock::LockStore;
use crate::process::Process;

const OPERATION: &str = "begin transaction";
/// How long those who wait for locks, or hold one, have for the end.
const TELL_LIMIT: Duration = Duration::from_secs(5);
/// And a decision log that is away, with which the coordinator's session ends all the same.
const LET_GO_LIMIT: Duration = Duration::from_secs(1);
const FILE: &str = "this participant is a SQLite file, and SQLite can't prepare a transaction: it takes part in none with \
                    others. Change it in a transaction of its own, and publish through it with onecommit.Outbox; or \
                    move its tables to PostgreSQL";

/// See the module.
pub struct Node {
    scope: Arc<Scope>,
    members: BTreeMap<ParticipantName, Arc<Member>>,
    /// Participants that are configured and can't take part.
    files: BTreeSet<ParticipantName>,
    coordinator: Mutex<Arc<Coordinator>>,
    pub(super) locks: Arc<Locks>,
    closing: watch::Sender<bool>,
    /// The same for those who wait for locks, or hold one: they are told, and give it up, before everything ends.
    locking: watch::Sender<bool>,
    recoverer: JoinHandle<()>,
    recovery: Arc<RecoveryTally>,
    /// What ends with it.
    companions: Vec<JoinHandle<()>>,
    process: Process,
}

impl Node {
    /// Opens it; the servers need not be there yet. Runs in the tokio runtime it is opened in.
    pub fn open(
        namespace: Namespace,
        incarnation: Incarnation,
        members: Vec<Member>,
        log: Arc<dyn DecisionLog>,
        locks: Arc<dyn LockStore>,
        settings: impl Into<Followed<CoordinatorSettings>>,
    ) -> Self {
        let new_id = Arc::new(Uuid::new_v4);
        Node::open_with_ids(namespace, incarnation, members, log, locks, settings, new_id)
    }

    /// The same, with ids of the caller's making: whoever simulates a world has to run it again, step by step.
    pub fn open_with_ids(
        namespace: Namespace,
        incarnation: Incarnation,
        members: Vec<Member>,
        log: Arc<dyn DecisionLog>,
        locks: Arc<dyn LockStore>,
        settings: impl Into<Followed<CoordinatorSettings>>,
        new_id: NewId,
    ) -> Self {
        let (closing, closed) = watch::channel(false);
        let members: BTreeMap<_, _> =
            members.into_iter().map(|member| (member.name.clone(), Arc::new(member))).collect();
        let settings = settings.into();
        let retry = settings.now().retry;
        let scope = Arc::new(Scope::new(namespace, incarnation, log, settings, closed, new_id));
        let locks = Arc::new(Locks::new(locks, members.clone(), Arc::clone(&scope.holdings), retry));
        let recovery = Arc::new(RecoveryTally::default());
        let recoverer =
            Recoverer::new(Arc::clone(&scope), members.clone(), Arc::clone(&locks), Arc::clone(&recovery));
        let recoverer = tokio::spawn(recoverer.run());
        let coordinator = Mutex::new(Arc::new(Coordinator::new(Arc::clone(&scope))));
        let (files, process, locking) = (BTreeSet::new(), Process::this(), watch::Sender::new(false));
        Node {
            scope,
            members,
            files,
            coordinator,
            locks,
            closing,
            locking,
            recoverer,
            recovery,
            companions: Vec::new(),
            process,
        }
    }

    /// What its recovery of dead coordinators does, in numbers.
    pub fn recovery(&self) -> Arc<RecoveryTally> {
        Arc::clone(&self.recovery)
    }

    /// Which coordinators it has a hand on, and which locks it holds.
    pub fn holdings(&self) -> Arc<Holdings> {
        Arc::clone(&self.scope.holdings)
    }

    /// The same, with something beside it that ends when it is told so, by what `start` is given: true once this node
    /// is closed. Its end is waited for.
    pub(crate) fn with_companion(
        mut self,
        start: impl FnOnce(watch::Receiver<bool>) -> JoinHandle<()>,
    ) -> Self {
        self.companions.push(start(self.closing.subscribe()));
        self
    }

    /// The same, knowing which further participants are SQLite files: who names one is told why it can't
    /// take part.
    pub fn with_files(self, files: BTreeSet<ParticipantName>) -> Self {
        Node { files, ..self }
    }

    /// Begins a transaction with a branch in each of these participants, in their order.
    pub fn begin(&self, participants: &[ParticipantName], options: Options) -> Result<Dialogue> {
        self.expect_own_process(OPERATION)?;
        let members = self.members_of(participants)?;
        let deadline =
            tokio::time::Instant::now() + options.deadline.unwrap_or(self.scope.settings.now().deadline);
        let (scope, locks) = (Arc::clone(&self.scope), Arc::clone(&self.locks));
        Ok(Dialogue::new(scope, self.coordinator(), locks, members, options, deadline))
    }

    /// Begins nothing more, and stops settling. What is prepared by then is left to whoever recovers; locks of this
    /// process are given up.
    pub async fn close(self) {
        if !self.process.is_this() {
            // What a forked child has copies of is the parent's to end.
            return std::mem::forget(self);
        }
        self.closing.send_replace(true);
        self.locking.send_replace(true);
        let _ = tokio::time::timeout(TELL_LIMIT, self.locking.closed()).await;
        let _ = self.recoverer.await;
        for companion in self.companions {
            let _ = companion.await;
        }
        // Whoever holds one of its transactions still would keep it alive, and its branches prepared.
        let coordinator = self.coordinator.into_inner().unwrap_or_else(PoisonError::into_inner);
        let _ = tokio::time::timeout(LET_GO_LIMIT, coordinator.give_up()).await;
    }

    /// Turns true where it is closed.
    pub(super) fn closed(&self) -> watch::Receiver<bool> {
        self.locking.subscribe()
    }

    /// An error in a forked child.
    pub(super) fn expect_own_process(&self, operation: &'static str) -> Result<()> {
        self.process.expect(operation)
    }

    fn members_of(&self, participants: &[ParticipantName]) -> Result<Vec<Arc<Member>>> {
        let mut seen = BTreeSet::new();
        let find = |name: &ParticipantName| {
            let member = self.members.get(name).ok_or_else(|| {
                if self.files.contains(name) {
                    return Error::new(ErrorKind::Invalid, OPERATION, FILE).with("participant", name);
                }
                let names: Vec<&str> = self.members.keys().map(ParticipantName::as_str).collect();
                let why =
                    format!("no participant of this name is configured: there are {}", names.join(", "));
                Error::new(ErrorKind::Invalid, OPERATION, why).with("participant", name)
            })?;
            if !seen.insert(name.clone()) {
                let why = "a participant can have one branch in a transaction";
                return Err(Error::new(ErrorKind::Invalid, OPERATION, why).with("participant", name));
            }
            Ok(Arc::clone(member))
        };
        participants.iter().map(find).collect()
    }

    fn coordinator(&self) -> Arc<Coordinator> {
        let mut current = self.coordinator.lock().unwrap_or_else(PoisonError::into_inner);
        if current.is_over() {
            *current = Arc::new(Coordinator::new(Arc::clone(&self.scope)));
        }
        Arc::clone(&current)
    }
}
