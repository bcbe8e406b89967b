//! The decision log port over the world's.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use onecommit::decision_log::{DecisionLog, Fence, Legacy, LogSession, Registered};
use onecommit::id::{CoordinatorId, TransactionId};
use onecommit::protocol::batch::{Answer, Request};
use onecommit::protocol::decision::{Decision, Outcome, Record};
use onecommit::{Error, ErrorKind, Result};

use super::sim::{Process, Sim, To};
use crate::world::{Coordinator, Refused, Right, Session, World};

const OPERATION: &str = "ask decision log";

/// One process's view of the decision log.
pub struct SimulatedLog {
    pub sim: Arc<Sim>,
    pub process: Process,
}

struct SimulatedSession {
    sim: Arc<Sim>,
    process: Process,
    session: Session,
    /// The process has learned that it is over.
    is_over: AtomicBool,
}

fn right(fence: Fence) -> Right {
    Right { coordinator: fence.coordinator, fence: fence.number }
}

fn fence(right: Right) -> Fence {
    Fence { coordinator: right.coordinator, number: right.fence }
}

fn batches(known: &Coordinator) -> BTreeMap<u64, Vec<Decision>> {
    known.batches.iter().map(|(batch, decisions)| (*batch, decisions.to_vec())).collect()
}

#[async_trait]
impl DecisionLog for SimulatedLog {
    async fn open(&self) -> Result<Box<dyn LogSession>> {
        let opened = self.sim.call(self.process, To::Log, "open".into(), |world| world.log.open()).await;
        let away = || Error::new(ErrorKind::Unreachable, OPERATION, "no answer");
        let (sim, process, session) = (Arc::clone(&self.sim), self.process, opened.ok_or_else(away)?);
        sim.lock().sessions.insert(session, process);
        Ok(Box::new(SimulatedSession { sim, process, session, is_over: AtomicBool::new(false) }))
    }
}

impl SimulatedSession {
    /// `kind` is what an answer that does not come means.
    async fn ask<T: Debug + Send + 'static>(
        &self,
        kind: ErrorKind,
        what: String,
        effect: impl FnOnce(&mut World, Session) -> Result<T, Refused> + Send + 'static,
    ) -> Result<T> {
        let session = self.session;
        let what = format!("log s{session} {what}");
        if self.is_over() {
            return Err(Error::new(kind, OPERATION, "the session is over"));
        }
        let effect = move |world: &mut World| {
            world.log.expect(session)?;
            effect(world, session)
        };
        match self.sim.call(self.process, To::Log, what, effect).await {
            None => Err(Error::new(kind, OPERATION, "no answer")),
            Some(Ok(answer)) => Ok(answer),
            Some(Err(Refused::Over)) => {
                self.is_over.store(true, Ordering::SeqCst);
                Err(Error::new(kind, OPERATION, "the session is over"))
            }
            Some(Err(Refused::Fenced)) => Err(Error::new(ErrorKind::Fenced, OPERATION, "taken over")),
            Some(Err(Refused::Unread)) => Err(Error::new(ErrorKind::Failed, OPERATION, "not settled")),
        }
    }

    async fn read<T: Debug + Send + 'static>(
        &self,
        what: String,
        effect: impl FnOnce(&mut World, Session) -> Result<T, Refused> + Send + 'static,
    ) -> Result<T> {
        self.ask(ErrorKind::Unreachable, what, effect).await
    }

    async fn write<T: Debug + Send + 'static>(
        &self,
        what: String,
        effect: impl FnOnce(&mut World, Session) -> Result<T, Refused> + Send + 'static,
    ) -> Result<T> {
        self.ask(ErrorKind::Unclear, what, effect).await
    }
}

#[async_trait]
impl LogSession for SimulatedSession {
    async fn register(&self, id: CoordinatorId, record: &Record) -> Result<Fence> {
        let record = Arc::new(record.clone());
        let what = format!("register {id}");
        let registered =
            self.write(what, move |world, session| world.log.register(session, id, record)).await;
        let mut inner = self.sim.lock();
        if inner.registrations_unheard > 0 {
            inner.registrations_unheard -= 1;
            return Err(Error::new(ErrorKind::Unclear, "ask decision log", "no answer"));
        }
        registered.map(fence)
    }

    async fn record(&self, held: Fence, record: &Record) -> Result<()> {
        let record = Arc::new(record.clone());
        self.write(format!("record of {}", held.coordinator), move |world, session| {
            world.log.record(session, right(held), record)
        })
        .await
    }

    async fn decide(&self, held: Fence, request: &Request) -> Answer {
        let numbers: Vec<u64> = request.entries.iter().map(|entry| entry.number).collect();
        let (delete, id, request) = (request.delete.clone(), held.coordinator, request.clone());
        let what = format!("decide {numbers:?} in {} of {id}, delete {delete:?}", request.batch);
        let decided = self.write(what, move |world, session| {
            world.decide(session, right(held), &request).ok_or(Refused::Over)
        });
        decided.await.unwrap_or(Answer::Lost)
    }

    async fn coordinators(&self) -> Result<Vec<Registered>> {
        let found = self.read("coordinators".into(), |world, session| world.log.coordinators(session));
        let registered = |(coordinator, is_live)| Registered { coordinator, is_live };
        Ok(found.await?.into_iter().map(registered).collect())
    }

    async fn is_taken_over(&self, id: CoordinatorId) -> Result<bool> {
        self.read(format!("fence of {id}"), move |world, _| {
            Ok(world.log.find(id).is_some_and(|known| known.fence > 0))
        })
        .await
    }

    async fn take_over(&self, id: CoordinatorId) -> Result<Option<Legacy>> {
        let taken =
            self.write(format!("take over {id}"), move |world, session| world.log.take_over(session, id));
        Ok(taken.await?.map(|(right, known)| {
            let (record, batches) = ((*known.record).clone(), batches(&known));
            Legacy { fence: fence(right), record, batches }
        }))
    }

    async fn adopt_orphan(&self, id: CoordinatorId, record: &Record) -> Result<Option<Fence>> {
        let record = Arc::new(record.clone());
        let adopted = self.write(format!("adopt orphan {id}"), move |world, session| {
            world.log.adopt_orphan(session, id, record)
        });
        Ok(adopted.await?.map(fence))
    }

    async fn let_go(&self, id: CoordinatorId) -> Result<()> {
        if self.is_over() {
            return Ok(());
        }
        self.write(format!("let go of {id}"), move |world, session| world.log.let_go(session, id)).await
    }

    async fn remove(
        &self,
        held: Fence,
        batches: &[u64],
        outcomes: &[(TransactionId, Outcome)],
    ) -> Result<()> {
        let (batches, outcomes) = (batches.to_vec(), outcomes.to_vec());
        self.write(format!("remove {}", held.coordinator), move |world, session| {
            world.remove(session, right(held), &batches, &outcomes)
        })
        .await
    }

    async fn keep_outcomes(&self, held: Fence, outcomes: &[(TransactionId, Outcome)]) -> Result<()> {
        let outcomes = outcomes.to_vec();
        self.write(format!("keep {outcomes:?}"), move |world, session| {
            world.keep_outcomes(session, right(held), &outcomes)
        })
        .await
    }

    async fn outcome(&self, id: TransactionId) -> Result<Option<Outcome>> {
        self.read(format!("outcome of {id}"), move |world, _| Ok(world.log.outcome(id))).await
    }

    async fn look(&self, id: CoordinatorId) -> Result<Option<(Record, BTreeMap<u64, Vec<Decision>>)>> {
        self.read(format!("look at {id}"), move |world, _| {
            Ok(world.log.find(id).map(|known| ((*known.record).clone(), batches(known))))
        })
        .await
    }

    /// None is old enough in a run.
    async fn forget_outcomes(&self, _: u32, _: usize) -> Result<u64> {
        Ok(0)
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }
}
