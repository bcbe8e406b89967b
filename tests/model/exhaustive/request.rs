//! What an actor asks of the world, each a step of its own. An answer may be lost; and what is asked of a
//! database may be done later, when whoever asked has given it up.

use std::sync::Arc;

use onecommit::id::{CoordinatorId, TransactionId};
use onecommit::protocol::batch;
use onecommit::protocol::decision::{Outcome, Record};
use onecommit::protocol::fate::{Fate, Switch};
use onecommit::protocol::history::{CompareAndSet, Row};
use onecommit::protocol::progress::DatabaseIdentity;
use onecommit::protocol::transaction::Vote;

use crate::world::{
    Branch, Connection, Coordinator, Instance, Marking, Ran, Refused, Right, Session, World, Xid,
};

/// Each transaction has a connection of its own to each database.
fn connection(id: TransactionId) -> Connection {
    id.number as Connection
}

/// One request. Those of a database are with its place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    /// The application begins a transaction and writes in every database.
    Work(TransactionId),
    /// Its connections end.
    HangUp(TransactionId),
    Prepare(usize, Branch, Xid),
    End(usize, Branch, bool),
    Fate(usize, Xid),
    Prepared(usize),
    OpenHistory(usize, CoordinatorId),
    History(usize, CoordinatorId),
    Mark(usize, CoordinatorId, CompareAndSet, Instance),
    CloseHistory(usize, CoordinatorId, Instance),
    Register(Session, CoordinatorId, Arc<Record>),
    Record(Session, Right, Arc<Record>),
    Decide(Session, Right, batch::Request),
    TakeOver(Session, CoordinatorId),
    Adopt(Session, CoordinatorId, Arc<Record>),
    LetGo(Session, CoordinatorId),
    Keep(Session, Right, Vec<(TransactionId, Outcome)>),
    Remove(Session, Right, Vec<u64>, Vec<(TransactionId, Outcome)>),
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    Lost,
    Worked(Vec<(DatabaseIdentity, Xid)>),
    Done,
    Voted(Vote),
    Ended(bool),
    Fate(Instance, DatabaseIdentity, Fate, Vec<Switch>),
    Prepared(Instance, Vec<Branch>),
    Opened(bool),
    History(Option<Row>, Instance),
    Marked(Marking, Instance),
    Closed(bool),
    Written(Result<(), Refused>),
    Registered(Result<Right, Refused>),
    Decided(Option<batch::Answer>),
    Taken(Result<Option<(Right, Coordinator)>, Refused>),
    Adopted(Result<Option<Right>, Refused>),
}

/// How a request gets on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trip {
    Arrives,
    AnswerLost,
    RequestLost,
    /// It is given up, and done at some time or never.
    Late,
}

impl Request {
    /// How else it may get on than to arrive. A read that is lost is only made again. What a session has asked for
    /// is done in order, so there is nothing late in the log.
    pub fn troubles(&self) -> &'static [Trip] {
        match self {
            Request::Work(_)
            | Request::HangUp(_)
            | Request::Fate(..)
            | Request::Prepared(_)
            | Request::History(..) => &[],
            Request::Prepare(..)
            | Request::End(..)
            | Request::OpenHistory(..)
            | Request::Mark(..)
            | Request::CloseHistory(..) => &[Trip::Late],
            _ => &[Trip::AnswerLost, Trip::RequestLost],
        }
    }

    pub fn run(&self, world: &mut World) -> Answer {
        match self.clone() {
            Request::Work(id) => Answer::Worked(work(world, id)),
            Request::HangUp(id) => {
                world.databases.iter_mut().for_each(|database| database.roll_back(connection(id)));
                Answer::Done
            }
            Request::Prepare(place, branch, xid) => {
                Answer::Voted(world.databases[place].prepare(connection(branch.transaction), branch, xid))
            }
            Request::End(place, branch, commits) => Answer::Ended(world.end(place, branch, commits)),
            Request::Fate(place, xid) => {
                let database = &world.databases[place];
                let (instance, identity) = (database.instance(), database.identity());
                Answer::Fate(instance, identity, database.fate(xid), database.switches())
            }
            Request::Prepared(place) => {
                let database = &world.databases[place];
                Answer::Prepared(database.instance(), database.prepared().collect())
            }
            Request::OpenHistory(place, id) => Answer::Opened(world.databases[place].open_history(id)),
            Request::History(place, id) => {
                Answer::History(world.databases[place].history(id), world.databases[place].instance())
            }
            Request::Mark(place, id, write, there) => {
                let marking = world.databases[place].mark(id, write, there);
                Answer::Marked(marking, world.databases[place].instance())
            }
            Request::CloseHistory(place, id, there) => {
                Answer::Closed(world.databases[place].close_history(id, there))
            }
            other => ask_log(other, world),
        }
    }
}

fn work(world: &mut World, id: TransactionId) -> Vec<(DatabaseIdentity, Xid)> {
    let works = world.databases.iter_mut().map(|database| {
        database.begin(connection(id), id);
        match database.work(connection(id)) {
            Ran::Wrote(xid) => (database.identity(), xid),
            ran => panic!("just begun: {ran:?}"),
        }
    });
    works.collect()
}

fn ask_log(request: Request, world: &mut World) -> Answer {
    match request {
        Request::Register(session, id, record) => Answer::Registered(world.log.register(session, id, record)),
        Request::Record(session, right, record) => Answer::Written(world.log.record(session, right, record)),
        Request::Decide(session, right, request) => Answer::Decided(world.decide(session, right, &request)),
        Request::TakeOver(session, id) => Answer::Taken(world.log.take_over(session, id)),
        Request::Adopt(session, id, record) => Answer::Adopted(world.log.adopt_orphan(session, id, record)),
        Request::LetGo(session, id) => Answer::Written(world.log.let_go(session, id)),
        Request::Keep(session, right, outcomes) => {
            Answer::Written(world.keep_outcomes(session, right, &outcomes))
        }
        Request::Remove(session, right, batches, outcomes) => {
            Answer::Written(world.remove(session, right, &batches, &outcomes))
        }
        other => panic!("a database's: {other:?}"),
    }
}
