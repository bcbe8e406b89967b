//! A worker of the bank, in a process of its own, which may be killed anywhere: moves money between the
//! databases and publishes each transfer, until nobody holds its standard input. It prints what it was
//! told of each one, a line with the outcome and the transaction.

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_postgres::Client;
use uuid::Uuid;

use super::databases::{ACCOUNTS, NAMES, TOPIC};
use crate::cli::interrupt::runtime;
use crate::cli::output::Output;
use crate::config::{Config, DatabaseUrl};
use crate::coordinator::{Node, Options, Transaction};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ParticipantName, TransactionId};
use crate::message::Message;
use crate::postgres::connect::{OwnedClient, connect, within};
use crate::postgres::failure::{code, is_conflict};
use crate::service;

const OPERATION: &str = "demo bank";
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
/// At most this much is moved: more than some accounts have.
const AMOUNT_MAX: u32 = 40;
/// An account would have less than nothing.
const TOO_LITTLE: &str = "23514";

pub(super) const COMMITTED: &str = "committed";
pub(super) const ROLLED_BACK: &str = "rolled-back";
pub(super) const IN_DOUBT: &str = "in-doubt";

/// Works until it is told to end.
pub(in crate::cli::demo) fn run(config: &Config, output: Output) -> Result<i32> {
    let is_over = Arc::new(AtomicBool::new(false));
    let ends = Arc::clone(&is_over);
    std::thread::spawn(move || {
        // An error is an end, too.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        ends.store(true, Ordering::SeqCst);
    });
    runtime()?.block_on(async {
        let node = service::open_node(config).await?;
        let [north, south] = NAMES;
        let clients = [connection(config, north).await?, connection(config, south).await?];
        while !is_over.load(Ordering::SeqCst) {
            let (outcome, transfer) = told(&node, &clients).await?;
            output.line(&format!("{outcome} {transfer}"))?;
        }
        node.close().await;
        Ok(0)
    })
}

/// The worker's own connection to a participant.
async fn connection(config: &Config, name: &str) -> Result<OwnedClient> {
    let participant = config.participants.get(&name.parse::<ParticipantName>()?).map(|found| &found.url);
    match participant {
        Some(DatabaseUrl::Postgres(url)) => connect(url, OPERATION, REQUEST_LIMIT).await,
        _ => Err(Error::new(ErrorKind::Configuration, OPERATION, "not the demo's own configuration")),
    }
}

/// Makes one transfer; what is told of it.
async fn told(node: &Node, clients: &[OwnedClient; 2]) -> Result<(&'static str, TransactionId)> {
    let [north, south]: [&Client; 2] = [&clients[0], &clients[1]];
    let branches = [(NAMES[0].parse()?, north), (NAMES[1].parse()?, south)];
    let mut transaction = node.transaction(&branches, Options::default()).await?;
    let id = transaction.id();
    let outcome = match change(&mut transaction, [north, south]).await {
        Ok(()) => match transaction.commit().await {
            Ok(_) => COMMITTED,
            Err(error) if error.kind() == ErrorKind::InDoubt => IN_DOUBT,
            Err(error) if error.is_retriable() => ROLLED_BACK,
            Err(error) => return Err(error),
        },
        Err(error) if code(&error) == Some(TOO_LITTLE) || is_conflict(&error) => {
            transaction.roll_back().await?;
            ROLLED_BACK
        }
        Err(error) => return Err(error),
    };
    Ok((outcome, id))
}

/// Takes money from an account in one database, and gives it to one in the other.
async fn change(transaction: &mut Transaction<'_>, clients: [&Client; 2]) -> Result<()> {
    let transfer = transaction.id().to_string();
    let amount = i64::from(1 + random() % AMOUNT_MAX);
    let to_south = if random().is_multiple_of(2) { amount } else { -amount };
    // In the same order for every transfer: otherwise two of them could wait for each other.
    for (client, change) in clients.into_iter().zip([-to_south, to_south]) {
        let account = 1 + random() % ACCOUNTS;
        let sql = format!(
            "update account set total = total + {change} where id = {account}; \
             insert into entry values ('{transfer}', {change})"
        );
        within(REQUEST_LIMIT, OPERATION, client.batch_execute(&sql)).await?;
    }
    let value = serde_json::json!({"transfer": transfer, "amount": to_south}).to_string();
    transaction.publish(Message::new(TOPIC, transfer, value)?, None)?;
    Ok(())
}

fn random() -> u32 {
    Uuid::new_v4().as_fields().0
}
