//! The participant port over a database of the world.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use onecommit::id::{CoordinatorId, Incarnation, MessageId, Namespace, ParticipantName, TransactionId};
use onecommit::participant::{End, Ended, Instance, Marked, Participant, PreparedBranch};
use onecommit::protocol::branch::BranchName;
use onecommit::protocol::fate::{Fate, Switch};
use onecommit::protocol::history::{CompareAndSet, Row};
use onecommit::{Error, ErrorKind, Result};
use uuid::Uuid;

use super::sim::{Process, Sim, To};
use crate::world::{Branch, Database, Marking, NAMES, Whose, World};

/// One process's view of a database.
pub struct SimulatedParticipant {
    pub sim: Arc<Sim>,
    pub process: Process,
    pub place: usize,
}

pub fn namespace() -> Namespace {
    "shop".parse().expect("a name")
}

pub fn incarnation() -> Incarnation {
    Incarnation(Uuid::from_u128(0x1c))
}

pub fn participant(place: usize) -> ParticipantName {
    NAMES[place].parse().expect("a name")
}

/// A branch's name as PostgreSQL would list it.
pub fn spelled(place: usize, branch: Branch) -> BranchName {
    let other = |is: bool, name: Namespace| if is { "shop2".parse().expect("a name") } else { name };
    let is_elsewhere = branch.whose == Whose::OtherParticipant;
    BranchName {
        namespace: other(branch.whose == Whose::OtherNamespace, namespace()),
        incarnation: match branch.whose {
            Whose::OtherIncarnation => Incarnation(Uuid::from_u128(0x0b)),
            _ => incarnation(),
        },
        transaction: branch.transaction,
        participant: if is_elsewhere { "twin".parse().expect("a name") } else { participant(place) },
        is_home: branch.is_home,
    }
}

/// The branch of that name.
pub fn read(name: &BranchName) -> Branch {
    let whose = if name.namespace != namespace() {
        Whose::OtherNamespace
    } else if name.incarnation != incarnation() {
        Whose::OtherIncarnation
    } else if name.participant.as_str() == "twin" {
        Whose::OtherParticipant
    } else {
        Whose::Ours
    };
    Branch { transaction: name.transaction, is_home: name.is_home, whose }
}

fn instance_of(database: &Database) -> Instance {
    let instance = database.instance();
    let life = Uuid::from_u128(instance.life.into());
    Instance { database: database.identity(), started: database.started(), life }
}

impl SimulatedParticipant {
    async fn ask<T: std::fmt::Debug + Send + 'static>(
        &self,
        what: String,
        effect: impl FnOnce(&mut World) -> T + Send + 'static,
    ) -> Result<T> {
        let what = format!("{} {what}", NAMES[self.place]);
        let answer = self.sim.call(self.process, To::Database(self.place), what, effect).await;
        answer.ok_or_else(|| Error::new(ErrorKind::Unreachable, "ask database", "no answer"))
    }
}

#[async_trait]
impl Participant for SimulatedParticipant {
    async fn instance(&self) -> Result<Instance> {
        let place = self.place;
        self.ask("instance".into(), move |world| instance_of(&world.databases[place])).await
    }

    async fn prepared(&self) -> Result<(Instance, Vec<PreparedBranch>)> {
        let place = self.place;
        let listed = self.ask("prepared".into(), move |world| {
            let database = &world.databases[place];
            (instance_of(database), database.prepared().collect::<Vec<_>>())
        });
        let (instance, branches) = listed.await?;
        let prepared = |branch| {
            let (name, owner) = (spelled(place, branch), "app".to_string());
            PreparedBranch { name, owner, age: Duration::from_secs(1) }
        };
        Ok((instance, branches.into_iter().map(prepared).collect()))
    }

    async fn end(&self, name: &BranchName, _: Option<&str>, end: End) -> Result<Ended> {
        let (place, branch) = (self.place, read(name));
        let what = format!("{end:?} {}", name.transaction);
        let is_ended = self.ask(what, move |world| world.end(place, branch, end == End::Commit)).await?;
        Ok(if is_ended { Ended::Now } else { Ended::NotThere })
    }

    async fn fate(&self, xid: u64) -> Result<(Instance, Fate)> {
        let place = self.place;
        self.ask(format!("fate of {xid}"), move |world| {
            (instance_of(&world.databases[place]), world.databases[place].fate(xid))
        })
        .await
    }

    async fn has_message(&self, xid: u64, message: MessageId) -> Result<bool> {
        let place = self.place;
        let transaction: Option<TransactionId> = self.sim.lock().messages.get(&message).copied();
        self.ask(format!("has message of {xid}"), move |world| {
            transaction.is_some_and(|transaction| world.databases[place].has_message(xid, transaction))
        })
        .await
    }

    async fn timelines(&self) -> Result<(Instance, Vec<Switch>)> {
        let place = self.place;
        self.ask("timelines".into(), move |world| {
            (instance_of(&world.databases[place]), world.databases[place].switches())
        })
        .await
    }

    async fn can_act_as(&self, _: &str) -> Result<bool> {
        Ok(true)
    }

    async fn open_history(&self, coordinator: CoordinatorId) -> Result<()> {
        let place = self.place;
        let what = format!("open history of {coordinator}");
        match self.ask(what, move |world| world.databases[place].open_history(coordinator)).await? {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Fenced, "open history", "there is a row")),
        }
    }

    async fn history(&self, coordinator: CoordinatorId) -> Result<(Instance, Option<Row>)> {
        let place = self.place;
        self.ask(format!("history of {coordinator}"), move |world| {
            (instance_of(&world.databases[place]), world.databases[place].history(coordinator))
        })
        .await
    }

    async fn mark(&self, id: CoordinatorId, write: CompareAndSet, there: &Instance) -> Result<Marked> {
        let (place, there) = (self.place, there.clone());
        let marked = self.ask(format!("mark {write:?} of {id}"), move |world| {
            let database = &mut world.databases[place];
            let answering = instance_of(database);
            // Compared as the product spells it: what it forgets of an instance is forgotten here, too.
            let marking = match answering == there {
                true => database.mark(id, write, database.instance()),
                false => Marking::OtherInstance,
            };
            (answering, marking)
        });
        Ok(match marked.await? {
            (_, Marking::Written) => Marked::Written,
            (answering, Marking::OtherInstance) => Marked::OtherInstance(answering),
            (_, Marking::Lost(row)) => Marked::Lost(row),
        })
    }

    async fn close_history(&self, id: CoordinatorId, there: &Instance) -> Result<bool> {
        let (place, there) = (self.place, there.clone());
        self.ask(format!("close history of {id}"), move |world| {
            let database = &mut world.databases[place];
            let is_there = instance_of(database) == there;
            is_there && database.close_history(id, database.instance())
        })
        .await
    }

    /// None is old enough in a run.
    async fn forget_histories(&self, _: u32) -> Result<u64> {
        Ok(0)
    }

    /// Nobody locks in a run.
    async fn lock_floor(&self) -> Result<i64> {
        Ok(0)
    }

    async fn raise_lock_floor(&self, _: i64) -> Result<()> {
        Ok(())
    }

    fn forget_lock_floor(&self) -> String {
        "nothing: no lock was noted".to_string()
    }
}
