//! A transaction on connections of tokio-postgres, which the caller keeps.

use std::time::Duration;

use futures_util::future::join_all;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::dialogue::{self, Answer, Dialogue, Failure, Finished, Next, Options};
use super::node::Node;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{LockName, MessageId, ParticipantName, TransactionId};
use crate::message::Message;

/// A transaction with a branch on each of the caller's connections: all of it happens, or nothing.
///
/// The caller's statements run on the connections as usual, and leave `BEGIN`, `COMMIT` and `ROLLBACK` to
/// this. One that is dropped is rolled back.
///
/// ```no_run
/// # async fn transfer(node: &onecommit::coordinator::Node, orders: &tokio_postgres::Client,
/// #     billing: &tokio_postgres::Client) -> onecommit::Result<()> {
/// use onecommit::coordinator::Options;
///
/// let branches = [("orders".parse()?, orders), ("billing".parse()?, billing)];
/// let transaction = node.transaction(&branches, Options::default()).await?;
/// # let failed = |_| onecommit::Error::new(onecommit::ErrorKind::Failed, "pay", "");
/// orders.execute("update orders set paid = true where id = 42", &[]).await.map_err(failed)?;
/// billing.execute("insert into payments values (42, 100)", &[]).await.map_err(failed)?;
/// let finished = transaction.commit().await?;
/// assert!(finished.is_applied);
/// # Ok(())
/// # }
/// ```
pub struct Transaction<'a> {
    dialogue: Dialogue,
    clients: Vec<&'a Client>,
    is_over: bool,
}

impl Node {
    /// Begins a transaction. Each connection has to be idle, and to lead to its participant's database.
    pub async fn transaction<'a>(
        &self,
        branches: &[(ParticipantName, &'a Client)],
        options: Options,
    ) -> Result<Transaction<'a>> {
        let names: Vec<ParticipantName> = branches.iter().map(|(name, _)| name.clone()).collect();
        let clients = branches.iter().map(|(_, client)| *client).collect();
        let dialogue = self.begin(&names, options)?;
        let mut transaction = Transaction { dialogue, clients, is_over: false };
        match transaction.drive().await? {
            None => Ok(transaction),
            Some(_) => {
                Err(Error::new(ErrorKind::Failed, "begin transaction", "it has ended before it began"))
            }
        }
    }
}

impl Transaction<'_> {
    /// Its id, by which its outcome can be asked for.
    pub fn id(&self) -> TransactionId {
        self.dialogue.id()
    }

    /// Publishes a message, if the transaction commits: it is kept here until then, and is written into
    /// the outbox of one of the participants, its home, which `outbox` names where several have one.
    pub fn publish(&mut self, message: Message, outbox: Option<&ParticipantName>) -> Result<MessageId> {
        self.dialogue.publish(message, outbox)
    }

    /// Takes a lock for the length of the transaction, and waits for it, until the transaction's deadline at the
    /// longest; returns its fencing number. `Conflict` where it was not free in time, or a deadlock was found: the
    /// transaction may be run again. The next one gets it once every branch is at its end, whoever dies before.
    pub async fn lock(&mut self, name: &LockName, timeout: Option<Duration>) -> Result<i64> {
        self.dialogue.lock(name, timeout).await
    }

    /// Commits every branch, or none. An error of the kind `InDoubt` says that the outcome is not known,
    /// every other one that all is rolled back; one of the kind `Conflict` that it may be run again.
    pub async fn commit(mut self) -> Result<Finished> {
        self.dialogue.commit();
        let finished = self.drive().await?;
        finished
            .ok_or_else(|| Error::new(ErrorKind::Failed, "commit transaction", "it was rolled back before"))
    }

    /// Rolls every branch back.
    pub async fn roll_back(mut self) -> Result<()> {
        self.dialogue.roll_back();
        self.drive().await.map(drop)
    }

    /// Goes on until the caller's own statements are to run (None), or until the end.
    async fn drive(&mut self) -> Result<Option<Finished>> {
        loop {
            match self.dialogue.next_step() {
                Next::Open => return Ok(None),
                Next::Work => self.dialogue.work().await,
                Next::Ended(ended) => {
                    self.is_over = true;
                    return ended;
                }
                Next::Send(messages) => {
                    let sent = join_all(messages.iter().map(|message| send(&self.clients, message)));
                    match tokio::time::timeout_at(self.dialogue.wait_until(), sent).await {
                        Ok(answers) => self.dialogue.answered(answers).await,
                        Err(_) => self.dialogue.interrupt().await,
                    }
                }
            }
        }
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        for client in &self.clients {
            // In the connection's queue as soon as it was asked for once; nobody waits for the answer.
            let mut rollback = Box::pin(client.batch_execute("rollback"));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            let _ = rollback.as_mut().poll(&mut context);
        }
    }
}

async fn send(clients: &[&Client], message: &dialogue::Message) -> Answer {
    let answered = match clients.get(message.branch) {
        Some(client) => client.simple_query(&message.sql).await,
        None => return Ok(Vec::new()),
    };
    let found = answered.map_err(|error| Failure {
        code: error.code().map(|code| code.code().to_string()),
        source: Box::new(error),
    })?;
    let row = found.iter().rev().find_map(|one| match one {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(row.map_or_else(Vec::new, |row| (0..row.len()).map(|at| row.get(at).map(str::to_string)).collect()))
}
