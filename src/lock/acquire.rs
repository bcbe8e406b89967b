//! How a lock is waited for. Relies on [`standing`] for who holds, and on [`closed_circle`] for what is a deadlock;
//! promises that a wait ends, by the lock, by its limit, or by being told of a deadlock.

use tokio::time::Instant;

use super::port::{Entrant, LockSession};
use crate::error::{Error, ErrorKind, Result};
use crate::id::TransactionId;
use crate::protocol::lock::{Owner, Purpose, Queue, Standing, closed_circle, standing};
use crate::protocol::retry::Backoff;

/// Who is in a circle of waits, in its error.
const OTHERS: &str = "others";

/// Enters a queue and waits for its first place; returns the fencing number. `Conflict` where the limit is over,
/// or a deadlock was closed: the caller is out of the queue then, as far as the store has confirmed it. After
/// every other error, and where this is dropped, it may be in the queue, and has to leave.
pub async fn acquire(
    session: &dyn LockSession,
    queue: &Queue,
    entrant: Entrant,
    until: Instant,
    retry: Backoff,
) -> Result<i64> {
    let mut patience = Patience { until, retry, failures: 0 };
    let owner = entrant.owner();
    while let Err(error) = session.enter(queue, &entrant).await {
        patience.after(session, error).await?;
    }
    let mut is_noted = false;
    let came = loop {
        match go_on(session, queue, owner, until, &mut is_noted).await {
            Ok(Some(number)) => break Ok(number),
            Ok(None) => patience.failures = 0,
            Err(error) if error.kind() == ErrorKind::Conflict => break Err(error),
            Err(error) => patience.after(session, error).await?,
        }
        if Instant::now() >= until {
            break Err(late(queue));
        }
    };
    if came.is_err() {
        // Where that is not confirmed, whoever ends the transaction or the session leaves it.
        let _ = session.leave(queue, owner).await;
    }
    if let Owner::Transaction(id) = owner
        && is_noted
    {
        // One that stays says nothing: who holds the lock, or has left, waits for nobody there.
        let _ = session.end_waits(id).await;
    }
    came
}

/// Looks, and waits for the entry before; the fencing number where it is held.
async fn go_on(
    session: &dyn LockSession,
    queue: &Queue,
    owner: Owner,
    until: Instant,
    is_noted: &mut bool,
) -> Result<Option<i64>> {
    match standing(&session.entries(queue).await?, owner) {
        Standing::Holds(number) => Ok(Some(number)),
        Standing::Absent => Err(lost(queue)),
        Standing::Behind(before) => {
            if let Owner::Transaction(id) = owner
                && !*is_noted
            {
                expect_no_circle(session, queue, id).await?;
                *is_noted = true;
            }
            session.wait_for_end(queue, &before, until).await?;
            Ok(None)
        }
    }
}

/// Once a wait: later ones that would close a circle with it find it.
async fn expect_no_circle(session: &dyn LockSession, queue: &Queue, id: TransactionId) -> Result<()> {
    let waits = session.begin_wait(id, queue).await?;
    let Some(circle) = closed_circle(id, &waits) else { return Ok(()) };
    let others: Vec<String> = circle.iter().filter(|one| **one != id).map(ToString::to_string).collect();
    let why = "a deadlock: whoever holds this lock waits for one that this transaction holds. Run it again; to have \
               none, take locks in the same order everywhere";
    let error = Error::new(ErrorKind::Conflict, operation(queue.purpose), why).with("name", &queue.name);
    Err(error.with("transaction", id).with(OTHERS, others.join(", ")))
}

/// What errors are borne for.
struct Patience {
    until: Instant,
    retry: Backoff,
    failures: u32,
}

impl Patience {
    /// Waits before the next attempt, where there may be one.
    async fn after(&mut self, session: &dyn LockSession, error: Error) -> Result<()> {
        let may_pass = matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Unclear);
        if !may_pass || session.is_over() || Instant::now() >= self.until {
            return Err(error);
        }
        self.failures += 1;
        let pause = Instant::now() + self.retry.wait(self.failures, 0.5);
        tokio::time::sleep_until(pause.min(self.until)).await;
        Ok(())
    }
}

/// Whether a conflict is a circle that was closed, and no limit that is over.
pub(crate) fn is_deadlock(error: &Error) -> bool {
    error.context().iter().any(|(key, _)| *key == OTHERS)
}

/// The same as [`late`], where whoever holds it is in this very process.
pub(crate) fn late_behind_own(queue: &Queue) -> Error {
    let why = match queue.purpose {
        Purpose::Lock => {
            "this very process holds the lock, in another block or transaction: end that one first, or wait longer"
        }
        Purpose::Leader => {
            "this very process is the leader, in another block: leave that one first, or wait longer"
        }
    };
    Error::new(ErrorKind::Conflict, operation(queue.purpose), why).with("name", &queue.name)
}

pub(crate) fn operation(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Lock => "lock",
        Purpose::Leader => "stand for election",
    }
}

fn late(queue: &Queue) -> Error {
    let why = match queue.purpose {
        Purpose::Lock => "somebody else held the lock for as long as this waited: try again, or wait longer",
        Purpose::Leader => {
            "somebody else was the leader for as long as this waited: try again, or wait longer"
        }
    };
    Error::new(ErrorKind::Conflict, operation(queue.purpose), why).with("name", &queue.name)
}

fn lost(queue: &Queue) -> Error {
    let why = "the place in the queue is gone: the session ended, or the transaction's coordinator was settled by \
               another node; try again";
    Error::new(ErrorKind::Fenced, operation(queue.purpose), why).with("name", &queue.name)
}
