//! Two databases in one commit, beside what it is built on: bare PREPARE TRANSACTION and COMMIT PREPARED
//! on both without any decision log (the floor, after which a crash leaves both prepared), and two plain
//! commits, which are not atomic. One transfer is an update in each of two PostgreSQL servers.
//!
//! Between the floor and ours stands one part of the protocol after the other, so that each one's price is
//! seen.

mod bare;
mod decisions;
pub(crate) mod ours;

use std::sync::Arc;
use std::time::{Duration, Instant};

use onecommit::coordinator::{CoordinatorSettings, Node};
use onecommit::outbox::postgres::print_sql;
use tokio_postgres::Client;

use self::bare::{Bare, Part};
use self::decisions::Decisions;
use crate::backlog::{Database, connect};
use crate::figure::Budget::{AtLeast, AtMost, None as Free};
use crate::figure::{Budget, Figure, percentile};
use crate::{Options, Result, Servers, process};

/// How many transfer at the same time where the parts of the protocol are compared.
const CLIENTS_OF_PARTS: usize = 16;
const ACCOUNTS: i32 = 10_000;
pub(crate) const TABLES: &str = "create table account (id int primary key, balance bigint not null);
    insert into account select n, 0 from generate_series(0, 9999) n; analyze account";
/// Nobody's session ends while it is measured.
const SESSION: Duration = Duration::from_secs(10);
/// No run takes as long.
const UNREACHED: Duration = Duration::from_secs(3600);

/// How transfers are made.
enum Way {
    Bare(Bare),
    Ours {
        node: Box<Node>,
        has_messages: bool,
    },
    /// One database, with a message.
    One(Box<Node>),
    /// The same, by hand.
    OneByHand,
}

struct Named {
    name: &'static str,
    way: Arc<Way>,
    /// Whether it is one of the parts, compared with the one before.
    is_part: bool,
}

/// What one run took.
struct Cost {
    transfers_per_s: f64,
    /// Of one transfer, the median.
    ms: f64,
    /// Of one transfer, by whose it is.
    cpu_ms: [f64; 3],
}

/// Whose CPU time is told apart: that of the servers by the names of their processes, and this one's.
const CPU: [&str; 3] = ["PostgreSQL", "ZooKeeper", "here"];

const FLOOR: &str = "floor";
const EACH: &str = "a node each";
const GROUPED: &str = "grouped";
const ZOOKEEPER: &str = "ours";
const ALL_AT_ONCE: &str = "ours, with a message, applied all at once";
const HOME_FIRST: &str = "ours, with a message";
const ONE: &str = "one database and a message";
const ONE_BY_HAND: &str = "the same by hand";

/// Measures all of them, for one client and for several, and what CPU time each takes.
pub(crate) async fn measure(servers: &Servers, options: &Options) -> Result<Vec<Figure>> {
    let databases = databases(servers).await?;
    let urls = [databases[0].url.clone(), databases[1].url.clone()];
    let folder = tempfile::tempdir()?;
    let ways = ways(&urls, servers, folder.path()).await?;
    let mut figures = Vec::new();
    for &clients in &options.transfer_clients {
        let compared: Vec<&Named> =
            ways.iter().filter(|way| !way.is_part || clients == CLIENTS_OF_PARTS).collect();
        let mut costs: Vec<Vec<Cost>> = compared.iter().map(|_| Vec::new()).collect();
        for round in 0..options.rounds {
            let mut order: Vec<usize> = (0..compared.len()).collect();
            // Each begins and ends a round sometimes, and none always comes behind the same one.
            order.rotate_left(round * 3 % compared.len());
            if round % 2 == 1 {
                order.reverse();
            }
            for at in order {
                let seconds = Duration::from_secs(options.transfer_seconds);
                costs[at].push(cost(&urls, &compared[at].way, clients, seconds).await?);
            }
        }
        figures.extend(figures_of(clients, &compared, &costs));
    }
    for Named { way, .. } in ways {
        if let Some(Way::Ours { node, .. } | Way::One(node)) = Arc::into_inner(way) {
            node.close().await;
        }
    }
    for database in databases {
        database.drop().await?;
    }
    Ok(figures)
}

/// One on each server, with accounts.
pub(crate) async fn databases(servers: &Servers) -> Result<[Database; 2]> {
    let databases =
        [Database::create(&servers.postgres).await?, Database::create(&servers.other_postgres).await?];
    for database in &databases {
        let client = database.client().await?;
        client.batch_execute(&print_sql("onecommit", 0)).await?;
        client.batch_execute(TABLES).await?;
    }
    Ok(databases)
}

async fn ways(urls: &[String; 2], servers: &Servers, folder: &std::path::Path) -> Result<Vec<Named>> {
    let stores = ours::in_zookeeper(&servers.zookeeper, SESSION).await?;
    let bare = |part, decisions| Ok(Way::Bare(Bare::new(part, decisions)?)) as Result<Way>;
    let decided = async |part| bare(part, Some(Decisions::grouped(&*stores.log).await?));
    let set = |stores, has_messages, settings| {
        let node = Box::new(ours::open(urls, stores, settings)?);
        Ok(Way::Ours { node, has_messages }) as Result<Way>
    };
    let ours = |stores, has_messages| set(stores, has_messages, CoordinatorSettings::default());
    let unrenewed = CoordinatorSettings { mark_interval: UNREACHED, ..CoordinatorSettings::default() };
    let at_once = CoordinatorSettings { home_wait: Duration::ZERO, ..CoordinatorSettings::default() };
    let ensemble = ours::in_zookeeper(&servers.ensemble, SESSION).await?;
    let ways = [
        ("plain", false, bare(Part::Plain, None)?),
        (FLOOR, false, bare(Part::Floor, None)?),
        (EACH, false, bare(Part::Decided, Some(Decisions::each(&*stores.log).await?))?),
        (GROUPED, false, decided(Part::Decided).await?),
        ("and the begin's mark", true, decided(Part::Marked).await?),
        ("and the question what each did", true, decided(Part::Asked).await?),
        ("and the vote's status", true, decided(Part::Voted).await?),
        ("ours, but no mark is renewed", true, set(stores.clone(), false, unrenewed)?),
        (ZOOKEEPER, false, ours(stores.clone(), false)?),
        ("ours, three ZooKeepers", false, ours(ensemble, false)?),
        ("ours, in a file", false, ours(ours::in_file(folder), false)?),
        (ALL_AT_ONCE, true, set(stores.clone(), true, at_once)?),
        (HOME_FIRST, false, ours(stores.clone(), true)?),
        (ONE_BY_HAND, false, Way::OneByHand),
        (ONE, false, Way::One(Box::new(ours::open(urls, stores, CoordinatorSettings::default())?))),
    ];
    Ok(ways.into_iter().map(|(name, is_part, way)| Named { name, way: Arc::new(way), is_part }).collect())
}

fn figures_of(clients: usize, compared: &[&Named], costs: &[Vec<Cost>]) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (way, found) in compared.iter().zip(costs) {
        let rates = found.iter().map(|cost| cost.transfers_per_s).collect();
        figures.push(Figure::new(format!("{clients} at a time: {}, transfers/s", way.name), Free, rates));
        let times = found.iter().map(|cost| cost.ms).collect();
        figures.push(Figure::new(format!("{clients} at a time: {}, ms (p50)", way.name), Free, times));
        for (at, whose) in CPU.into_iter().enumerate() {
            let spent = found.iter().map(|cost| cost.cpu_ms[at]).collect();
            let what = format!("{clients} at a time: {}, ms of CPU, {whose}", way.name);
            figures.push(Figure::new(what, Free, spent));
        }
    }
    let place = |name| compared.iter().position(|way| way.name == name).expect("one of the ways");
    let ratio = |at: usize, to: usize, budget: Budget| {
        let pairs = costs[at].iter().zip(&costs[to]);
        let ratios = pairs.map(|(one, other)| one.transfers_per_s / other.transfers_per_s).collect();
        let what = format!("{clients} at a time: {} : {}", compared[at].name, compared[to].name);
        Figure::new(what, budget, ratios)
    };
    let (floor, ours, group) = (place(FLOOR), place(ZOOKEEPER), place(GROUPED));
    let budget = match clients {
        64.. => AtLeast(0.88),
        16.. => AtLeast(0.75),
        _ => Free,
    };
    figures.push(ratio(ours, floor, budget));
    let slower = costs[ours].iter().zip(&costs[floor]).map(|(ours, floor)| ours.ms / floor.ms).collect();
    let budget = if clients == 1 { AtMost(1.6) } else { Free };
    figures.push(Figure::new(format!("{clients} at a time: ours : floor, ms (p50)"), budget, slower));
    figures.push(ratio(group, place(EACH), if clients >= 16 { AtLeast(1.25) } else { Free }));
    figures.push(ratio(group, floor, Free));
    for at in group + 1..=ours {
        if compared[at].is_part || (at == ours && compared[at - 1].is_part) {
            // What a part adds may be 3 %.
            figures.push(ratio(at, at - 1, AtLeast(0.97)));
        }
    }
    for at in ours + 1..place(ONE_BY_HAND) {
        figures.push(ratio(at, floor, Free));
    }
    if let Some(at_once) = compared.iter().position(|way| way.name == ALL_AT_ONCE) {
        figures.push(ratio(place(HOME_FIRST), at_once, AtLeast(0.97)));
    }
    let budget = if clients == 16 { AtLeast(0.95) } else { Free };
    figures.push(ratio(place(ONE), place(ONE_BY_HAND), budget));
    figures
}

async fn cost(urls: &[String; 2], way: &Arc<Way>, clients: usize, limit: Duration) -> Result<Cost> {
    let together = Arc::new(tokio::sync::Barrier::new(clients + 1));
    let mut running = Vec::new();
    for client in 0..clients {
        let connections = [connect(&urls[0]).await?, connect(&urls[1]).await?];
        let account = i32::try_from(client)? * (ACCOUNTS / 256);
        // What is only made once. And whoever fails here is not waited for by the others.
        transfer(&connections, way, account).await?;
        let (way, together) = (Arc::clone(way), Arc::clone(&together));
        running.push(tokio::spawn(async move {
            together.wait().await;
            let (began, mut times) = (Instant::now(), Vec::new());
            while began.elapsed() < limit {
                let one = Instant::now();
                transfer(&connections, &way, account).await?;
                times.push(one.elapsed().as_secs_f64() * 1000.0);
            }
            Result::Ok(times)
        }));
    }
    together.wait().await;
    let (before, mut times) = (cpu_seconds()?, Vec::new());
    for one in running {
        times.extend(one.await??);
    }
    times.sort_by(f64::total_cmp);
    let (after, transfers) = (cpu_seconds()?, times.len() as f64);
    Ok(Cost {
        transfers_per_s: transfers / limit.as_secs_f64(),
        ms: percentile(&times, 0.5),
        cpu_ms: std::array::from_fn(|at| (after[at] - before[at]) * 1000.0 / transfers),
    })
}

/// Kafka is another JVM beside ZooKeeper's, with nothing to do.
fn cpu_seconds() -> Result<[f64; 3]> {
    Ok([
        process::cpu_seconds_of_all("postgres")?,
        process::cpu_seconds_of_all("java")?,
        process::cpu_seconds(std::process::id())?,
    ])
}

async fn transfer(connections: &[Client; 2], way: &Way, account: i32) -> Result<()> {
    match way {
        Way::Bare(bare) => bare.transfer(connections, account).await,
        Way::Ours { node, has_messages } => ours::transfer(node, connections, account, *has_messages).await,
        Way::One(node) => ours::change(node, &connections[0], account).await,
        Way::OneByHand => ours::change_by_hand(&connections[0], account).await,
    }
}

pub(crate) fn update(account: i32) -> String {
    format!("update account set balance = balance + 1 where id = {account}")
}
