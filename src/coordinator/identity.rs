//! One coordinator: an id that is never used again, the numbers of its transactions, and, from its first
//! decision on, its registration.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::decider::Decider;
use super::holdings::Holdings;
use super::registration::Registration;
use super::settings::CoordinatorSettings;
use super::settle::{Branch, Settler};
use crate::config::Followed;
use crate::decision_log::DecisionLog;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{CoordinatorId, Incarnation, Namespace, ParticipantName, TransactionId};
use crate::protocol::branch::BranchName;

/// Makes ids that nobody has had before.
pub type NewId = Arc<dyn Fn() -> Uuid + Send + Sync>;

/// What every coordinator of a node has in common.
pub(super) struct Scope {
    pub(super) namespace: Namespace,
    pub(super) incarnation: Incarnation,
    pub(super) log: Arc<dyn DecisionLog>,
    /// For transactions that are not at their end yet.
    pub(super) places: Arc<Semaphore>,
    pub(super) settings: Followed<CoordinatorSettings>,
    pub(super) settler: Settler,
    /// For whoever shows it.
    pub(super) holdings: Arc<Holdings>,
    pub(super) new_id: NewId,
    /// Where what nobody waits for any more goes on: a transaction may be dropped on any thread.
    pub(super) runtime: Handle,
}

impl Scope {
    /// The name of a transaction's branch.
    pub(super) fn name(
        &self,
        transaction: TransactionId,
        participant: &ParticipantName,
        is_home: bool,
    ) -> BranchName {
        let (namespace, incarnation) = (self.namespace.clone(), self.incarnation);
        BranchName { namespace, incarnation, transaction, participant: participant.clone(), is_home }
    }

    /// In the tokio runtime that this is called in. `closed` turns true where nothing more is settled.
    pub(super) fn new(
        namespace: Namespace,
        incarnation: Incarnation,
        log: Arc<dyn DecisionLog>,
        settings: Followed<CoordinatorSettings>,
        closed: watch::Receiver<bool>,
        new_id: NewId,
    ) -> Self {
        let (retry, most) = (settings.now().retry, settings.now().in_flight_max);
        let settler = Settler { retry, settings: settings.clone(), closed };
        let (places, runtime) = (Arc::new(Semaphore::new(most)), Handle::current());
        let holdings = Arc::default();
        Scope { namespace, incarnation, log, places, settings, settler, holdings, new_id, runtime }
    }
}

/// See the module.
pub(super) struct Coordinator {
    id: CoordinatorId,
    next: AtomicU64,
    scope: Arc<Scope>,
    registering: tokio::sync::Mutex<Registering>,
}

/// How far its registration is.
#[derive(Default)]
enum Registering {
    /// Nothing is to be decided yet: whoever writes to one database needs no decision log. Or the last attempt failed.
    #[default]
    No,
    /// One attempt, which goes on when nobody waits for it any more: it may be alive for this id by then, and a second
    /// one beside it would take it for somebody else.
    UnderWay(JoinHandle<Result<Registered>>),
    Done(Registered),
    /// Somebody is registered under this id: most likely this node's own attempt, of which no answer came.
    Lost,
}

impl Registering {
    /// Once an attempt has ended so.
    fn behind(ended: &Result<Registered>) -> Self {
        match ended {
            Ok(registered) => Registering::Done(registered.clone()),
            Err(error) if matches!(error.kind(), ErrorKind::Unclear | ErrorKind::Fenced) => Registering::Lost,
            Err(_) => Registering::No,
        }
    }
}

/// What a registered coordinator decides with.
#[derive(Clone)]
pub(super) struct Registered {
    pub(super) registration: Arc<Registration>,
    pub(super) decider: Decider,
}

impl Coordinator {
    pub(super) fn new(scope: Arc<Scope>) -> Self {
        let registering = tokio::sync::Mutex::default();
        Coordinator { id: CoordinatorId((scope.new_id)()), next: AtomicU64::new(1), scope, registering }
    }

    /// Decides nothing more, and has others settle what it leaves.
    pub(super) async fn give_up(&self) {
        if let Registering::Done(registered) = &*self.registering.lock().await {
            registered.registration.end();
            registered.registration.let_go().await;
        }
    }

    pub(super) fn next_transaction(&self) -> TransactionId {
        TransactionId { coordinator: self.id, number: self.next.fetch_add(1, Ordering::Relaxed) }
    }

    /// Its registration, which is made where there is none yet.
    pub(super) async fn registered(&self) -> Result<Registered> {
        let mut registering = self.registering.lock().await;
        loop {
            match &mut *registering {
                Registering::Done(registered) => return Ok(registered.clone()),
                Registering::Lost => return Err(lost()),
                Registering::No => {
                    let attempt = register(Arc::clone(&self.scope), self.id);
                    *registering = Registering::UnderWay(self.scope.runtime.spawn(attempt));
                }
                Registering::UnderWay(attempt) => {
                    let is_old = attempt.is_finished();
                    let ended = attempt.await.unwrap_or_else(|error| Err(stopped(error)));
                    *registering = Registering::behind(&ended);
                    // What kept one from it that nobody waited for may be over.
                    if let (Err(error), false) = (ended, is_old) {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Whether it decides nothing more.
    pub(super) fn is_over(&self) -> bool {
        // While somebody registers it, it is not.
        self.registering.try_lock().is_ok_and(|registering| match &*registering {
            Registering::Done(registered) => registered.registration.is_over(),
            Registering::Lost => true,
            Registering::No | Registering::UnderWay(_) => false,
        })
    }
}

async fn register(scope: Arc<Scope>, id: CoordinatorId) -> Result<Registered> {
    let retry = scope.settings.now().retry;
    let registration = Arc::new(Registration::new(&*scope.log, id, retry).await?);
    scope.holdings.registered(id);
    let decider = Decider::start(Arc::clone(&registration), retry);
    tokio::spawn(renew(scope, Arc::clone(&registration), decider.clone(), id));
    Ok(Registered { registration, decider })
}

/// Whoever comes later gets a coordinator of another id.
fn lost() -> Error {
    let why = "it is not known whether this coordinator is registered: another one takes its place";
    Error::new(ErrorKind::Fenced, "register coordinator", why)
}

fn stopped(error: tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Unclear, "register coordinator", "the call was not finished").caused_by(error)
}

/// Renews the marks while there are decisions, and deletes those that are not needed any more; gives the
/// coordinator up once it has ended.
async fn renew(scope: Arc<Scope>, registration: Arc<Registration>, decider: Decider, id: CoordinatorId) {
    let mut closed = scope.settler.closed.clone();
    while !registration.is_over() {
        let interval = scope.settings.now().mark_interval;
        tokio::select! {
            biased;
            () = tokio::time::sleep(interval) => {}
            _ = closed.wait_for(|closed| *closed) => return,
        }
        if registration.batches() == 0 {
            continue;
        }
        if let Err(error) = registration.renew_marks().await {
            tracing::warn!(%error, "the marks could not be renewed: nothing is lost");
        }
        apply_again(&scope, &registration, id);
        let deletable = registration.take_deletable();
        if !deletable.is_empty() {
            decider.delete(deletable);
        }
    }
    scope.holdings.ended(id);
    registration.let_go().await;
}

/// Commits decided branches again, in participants of which another instance answers.
pub(super) fn apply_again(scope: &Arc<Scope>, registration: &Arc<Registration>, id: CoordinatorId) {
    for (member, decided) in registration.take_again() {
        let (scope, registration) = (Arc::clone(scope), Arc::clone(registration));
        scope.runtime.clone().spawn(async move {
            // Who prepared what: the decision log does not know.
            let Some((instance, prepared)) = scope.settler.prepared(&member).await else { return };
            let mut batches: BTreeMap<u64, Vec<Branch>> = BTreeMap::new();
            for (batch, decision) in decided {
                let here = decision.branches.into_iter().find(|branch| branch.participant == member.name);
                let Some(here) = here else { continue };
                let transaction = TransactionId { coordinator: id, number: decision.number };
                let name = scope.name(transaction, &member.name, here.is_home);
                let owner = prepared.iter().find(|one| one.name == name).map(|one| one.owner.clone());
                let branch = Branch {
                    member: Arc::clone(&member),
                    name,
                    owner,
                    xid: here.xid,
                    prepared: here.prepared_in(&instance.database),
                };
                batches.entry(batch).or_default().push(branch);
            }
            for (batch, branches) in batches {
                scope.settler.commit(&registration, batch, branches).await;
            }
        });
    }
}
