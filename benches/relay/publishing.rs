//! What publishing costs a writer beside an INSERT written by hand into a plain table with one key:
//! the same transactions, each with an update of an account. With SQL from here, and from Python
//! (`benches/publish.py`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::backlog::{VALUE_BYTES, connect};
use crate::figure::Budget::{AtLeast, None as Free};
use crate::figure::Figure;
use crate::ours::Installed;
use crate::process::python;
use crate::{Options, Result, Servers};

const ACCOUNTS: usize = 10_000;
const CALLS: usize = 5000;
const CLIENTS: [usize; 2] = [1, 16];
const TABLES: &str = "
    create table account (id int primary key, balance bigint not null);
    insert into account select n, 0 from generate_series(0, 9999) n;
    create table plain (id bigserial primary key, topic text not null, key text, value text);
    analyze account";

/// Who writes.
#[derive(Clone, Copy)]
enum From {
    Sql,
    Python,
}

/// How a message is written.
#[derive(Clone, Copy)]
enum How {
    Publish,
    Insert,
}

impl How {
    fn name(self) -> &'static str {
        match self {
            How::Publish => "publish",
            How::Insert => "insert",
        }
    }

    fn sql(self) -> &'static str {
        match self {
            How::Publish => "select onecommit.publish($1, $2, $3)",
            How::Insert => "insert into plain (topic, key, value) values ($1, $2, $3)",
        }
    }
}

/// What one run took.
struct Cost {
    transactions_per_s: f64,
    call_us: f64,
}

/// Measures both, for one client and for several.
pub(crate) async fn measure(servers: &Servers, options: &Options) -> Result<Vec<Figure>> {
    let installed = Installed::create(servers, options).await?;
    installed.database.client().await?.batch_execute(TABLES).await?;
    let url = &installed.database.url;
    let mut figures = Vec::new();
    for (from, name, budget) in [(From::Sql, "SQL", 0.9), (From::Python, "Python", 0.85)] {
        for clients in CLIENTS {
            let (mut publish, mut insert) = (Vec::new(), Vec::new());
            for round in 0..options.rounds {
                let publish_first = round % 2 == 0;
                for first in [true, false] {
                    let (how, costs) = if first == publish_first {
                        (How::Publish, &mut publish)
                    } else {
                        (How::Insert, &mut insert)
                    };
                    costs.push(cost(url, from, how, clients, options.publish_seconds).await?);
                }
            }
            figures.extend(compared(&format!("{name} with {clients} at a time"), budget, &publish, &insert));
        }
    }
    installed.remove(servers).await?;
    Ok(figures)
}

fn compared(name: &str, budget: f64, publish: &[Cost], insert: &[Cost]) -> Vec<Figure> {
    let rates = |costs: &[Cost]| costs.iter().map(|cost| cost.transactions_per_s).collect::<Vec<_>>();
    let calls = |costs: &[Cost]| costs.iter().map(|cost| cost.call_us).collect::<Vec<_>>();
    let pairs = publish.iter().zip(insert);
    let ratios = pairs.map(|(publish, insert)| publish.transactions_per_s / insert.transactions_per_s);
    vec![
        Figure::new(format!("{name}: publish, transactions/s"), Free, rates(publish)),
        Figure::new(format!("{name}: INSERT, transactions/s"), Free, rates(insert)),
        Figure::new(format!("{name}: publish : INSERT"), AtLeast(budget), ratios.collect()),
        Figure::new(format!("{name}: publish, µs a call without commit"), Free, calls(publish)),
        Figure::new(format!("{name}: INSERT, µs a call without commit"), Free, calls(insert)),
    ]
}

async fn cost(url: &str, from: From, how: How, clients: usize, seconds: u64) -> Result<Cost> {
    match from {
        From::Sql => {
            let transactions_per_s = transactions_per_s(url, how, clients, seconds).await?;
            Ok(Cost { transactions_per_s, call_us: call_us(url, how).await? })
        }
        From::Python => {
            let arguments = [url, how.name(), &clients.to_string(), &seconds.to_string()];
            let said = python().arg("benches/publish.py").args(arguments).output()?;
            if !said.status.success() {
                return Err(format!("publish.py: {}", String::from_utf8_lossy(&said.stderr)).into());
            }
            let said = String::from_utf8(said.stdout)?;
            let (transactions_per_s, call_us) = said.trim().split_once(' ').ok_or("publish.py said less")?;
            Ok(Cost { transactions_per_s: transactions_per_s.parse()?, call_us: call_us.parse()? })
        }
    }
}

async fn transactions_per_s(url: &str, how: How, clients: usize, seconds: u64) -> Result<f64> {
    let together = Arc::new(tokio::sync::Barrier::new(clients));
    let mut running = Vec::new();
    for client in 0..clients {
        let (mut connection, together) = (connect(url).await?, together.clone());
        running.push(tokio::spawn(async move {
            together.wait().await;
            write(&mut connection, how, (client, clients), Duration::from_secs(seconds)).await
        }));
    }
    let mut done = 0;
    for one in running {
        done += one.await??;
    }
    Ok(done as f64 / seconds as f64)
}

/// Commits transactions until the time is over; returns how many.
async fn write(
    connection: &mut Client,
    how: How,
    (client, clients): (usize, usize),
    limit: Duration,
) -> Result<usize> {
    let update = connection.prepare("update account set balance = balance + 1 where id = $1").await?;
    let message = connection.prepare(how.sql()).await?;
    let (value, began) = ("x".repeat(VALUE_BYTES), Instant::now());
    let mut done = 0;
    while began.elapsed() < limit {
        let account = (done * clients + client) % ACCOUNTS;
        let transaction = connection.transaction().await?;
        transaction.execute(&update, &[&i32::try_from(account)?]).await?;
        transaction.execute(&message, &[&"bench", &format!("key-{account}"), &value]).await?;
        transaction.commit().await?;
        done += 1;
    }
    Ok(done)
}

/// Of one call among many in one transaction, in microseconds.
async fn call_us(url: &str, how: How) -> Result<f64> {
    let mut connection = connect(url).await?;
    let message = connection.prepare(how.sql()).await?;
    let value = "x".repeat(VALUE_BYTES);
    let transaction = connection.transaction().await?;
    let began = Instant::now();
    for n in 0..CALLS {
        transaction.execute(&message, &[&"bench", &format!("key-{n}"), &value]).await?;
    }
    let took = began.elapsed();
    transaction.rollback().await?;
    Ok(took.as_secs_f64() * 1e6 / CALLS as f64)
}
