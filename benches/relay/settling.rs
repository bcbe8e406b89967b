//! A coordinator that is killed with transactions in doubt, and how long another node takes until nothing
//! of them is prepared any more.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use onecommit::coordinator::{
    Answer, CoordinatorSettings, Dialogue, Failure, Message, Next, Options as Asked,
};
use onecommit::id::Incarnation;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::backlog::connect;
use crate::figure::Budget::AtMost;
use crate::figure::Figure;
use crate::process::Process;
use crate::transfers::{databases, ours};
use crate::{Options, Result, Servers};

/// As short as an installation has it that has to go on soon.
const SESSION: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(20);
/// Where a coordinator is killed.
const DECIDED: &str = "decided";
const PREPARED_ONLY: &str = "prepared";
const PREPARED: &str = "select count(*) from pg_prepared_xacts where database = current_database()";

/// Kills one with one transaction, and one with a thousand, before and behind their decisions, in each round.
pub(crate) async fn measure(servers: &Servers, options: &Options) -> Result<Vec<Figure>> {
    let cases = [
        (PREPARED_ONLY, 1, "one transaction prepared", 4.0),
        (DECIDED, 1, "one transaction decided", 4.0),
        (PREPARED_ONLY, 1000, "1,000 transactions prepared", 10.0),
        (DECIDED, 1000, "1,000 transactions decided", 10.0),
    ];
    let mut found = cases.map(|_| Vec::new());
    for _ in 0..options.rounds {
        for ((word, transactions, ..), found) in cases.iter().zip(&mut found) {
            found.push(settled_s(servers, word, *transactions).await?);
        }
    }
    let figure = |((_, _, what, most), found)| {
        let what = format!("coordinator killed with {what}: until another node has settled it, s");
        Figure::new(what, AtMost(most), found)
    };
    Ok(cases.into_iter().zip(found).map(figure).collect())
}

async fn settled_s(servers: &Servers, word: &str, transactions: i64) -> Result<f64> {
    let databases = databases(servers).await?;
    let urls = [databases[0].url.clone(), databases[1].url.clone()];
    let (namespace, incarnation) = (ours::namespace()?, Incarnation::random());
    let stores = ours::stores_of(&servers.zookeeper, SESSION, &namespace, incarnation).await?;
    let node = ours::open(&urls, stores, CoordinatorSettings::default())?;
    let place = format!("{namespace} {incarnation} {} {} {word} {transactions}", urls[0], urls[1]);
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--doomed").arg(place).stdout(Stdio::piped());
    let mut doomed = Process::start("coordinator", &mut command)?;
    doomed.wait_line()?;
    let clients = [connect(&urls[0]).await?, connect(&urls[1]).await?];
    wait_prepared(&clients, transactions).await?;
    drop(doomed);
    let began = Instant::now();
    wait_prepared(&clients, 0).await?;
    let took = began.elapsed();
    node.close().await;
    for database in databases {
        database.drop().await?;
    }
    Ok(took.as_secs_f64())
}

/// Until so many are prepared in each.
async fn wait_prepared(clients: &[Client; 2], transactions: i64) -> Result<()> {
    let began = Instant::now();
    loop {
        let mut are_all = true;
        for client in clients {
            are_all &= client.query_typed_one(PREPARED, &[]).await?.get::<_, i64>(0) == transactions;
        }
        if are_all {
            return Ok(());
        }
        if began.elapsed() > LIMIT {
            return Err(format!("there were never {transactions} transactions prepared").into());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The other process: prepares its transactions, and decides all or none, says so, and waits for its end.
pub(crate) async fn doomed(servers: &Servers, place: &str) -> Result<()> {
    let parts: Vec<&str> = place.split(' ').collect();
    let [namespace, incarnation, one, two, word, transactions] = parts[..] else { return Err(place.into()) };
    let (namespace, incarnation) = (namespace.parse()?, incarnation.parse()?);
    let urls = [one.to_string(), two.to_string()];
    let stores = ours::stores_of(&servers.zookeeper, SESSION, &namespace, incarnation).await?;
    let node = ours::open(&urls, stores, CoordinatorSettings::default())?;
    let clients = [connect(&urls[0]).await?, connect(&urls[1]).await?];
    let mut kept = Vec::new();
    for account in 0..transactions.parse::<i32>()? {
        let names = [ours::NAMES[0].parse()?, ours::NAMES[1].parse()?];
        let deadline = Some(10 * LIMIT);
        let mut dialogue = node.begin(&names, Asked { deadline, ..Asked::default() })?;
        drive(&mut dialogue, &clients).await?;
        for client in &clients {
            client.batch_execute(&crate::transfers::update(account)).await?;
        }
        dialogue.commit();
        drive(&mut dialogue, &clients).await?;
        if word == DECIDED {
            dialogue.work().await;
        }
        kept.push(dialogue);
    }
    println!("{word}");
    std::future::pending().await
}

/// Goes on until the caller's work, or until it is prepared.
async fn drive(dialogue: &mut Dialogue, clients: &[Client; 2]) -> Result<()> {
    let mut is_prepared = false;
    loop {
        match dialogue.next_step() {
            Next::Open => return Ok(()),
            Next::Work if is_prepared => return Ok(()),
            Next::Work => dialogue.work().await,
            Next::Ended(ended) => return Err(format!("it has ended: {ended:?}").into()),
            Next::Send(messages) => {
                is_prepared = messages.iter().any(|message| message.sql.starts_with("prepare transaction"));
                let mut answers = Vec::new();
                for message in messages {
                    answers.push(send(clients, &message).await);
                }
                dialogue.answered(answers).await;
            }
        }
    }
}

async fn send(clients: &[Client; 2], message: &Message) -> Answer {
    let said = clients[message.branch].simple_query(&message.sql).await;
    let found = said.map_err(|error| Failure {
        code: error.code().map(|code| code.code().to_string()),
        source: Box::new(error),
    })?;
    let row = found.iter().rev().find_map(|one| match one {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(row.map_or_else(Vec::new, |row| (0..row.len()).map(|at| row.get(at).map(str::to_string)).collect()))
}
