//! Two databases in one commit, beside what it is built on: bare PREPARE TRANSACTION and COMMIT PREPARED
//! on both without any decision log (the floor, after which a crash leaves both prepared), and two plain
//! commits, which are not atomic. One transfer is an update in each.
//!
//! Both databases are on one server, so that two forced writes at a time share a disk and a log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use onecommit::coordinator::{CoordinatorSettings, Member, Node, Options as Asked};
use onecommit::decision_log::DecisionLog;
use onecommit::decision_log::file::FileDecisionLog;
use onecommit::decision_log::zookeeper::ZookeeperDecisionLog;
use onecommit::id::Incarnation;
use onecommit::lock::LockStore;
use onecommit::lock::file::FileLocks;
use onecommit::lock::zookeeper::ZookeeperLocks;
use onecommit::outbox::postgres::print_sql;
use onecommit::participant::postgres::PostgresParticipant;
use onecommit::zookeeper::{self, ZookeeperSettings};
use tokio_postgres::Client;

use crate::backlog::{Database, connect};
use crate::figure::Budget::{AtLeast, None as Free};
use crate::figure::{Figure, percentile};
use crate::{Options, Result, Servers};

const CLIENTS: [usize; 3] = [1, 16, 64];
const ACCOUNTS: i32 = 10_000;
const TABLES: &str = "create table account (id int primary key, balance bigint not null);
    insert into account select n, 0 from generate_series(0, 9999) n; analyze account";
/// Of our own, to each database.
const CONNECTIONS: usize = 64;
const LIMIT: Duration = Duration::from_secs(60);

/// How a transfer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Plain,
    Floor,
    File,
    Zookeeper,
}

const MODES: [Mode; 4] = [Mode::Plain, Mode::Floor, Mode::File, Mode::Zookeeper];

/// What one run took.
struct Cost {
    transfers_per_s: f64,
    /// Of one transfer.
    ms: f64,
}

/// Measures all of them, for one client and for several.
pub(crate) async fn measure(servers: &Servers, options: &Options) -> Result<Vec<Figure>> {
    let databases = [Database::create(&servers.postgres).await?, Database::create(&servers.postgres).await?];
    for database in &databases {
        let client = database.client().await?;
        client.batch_execute(&print_sql("onecommit", 0)).await?;
        client.batch_execute(TABLES).await?;
    }
    let urls = [databases[0].url.clone(), databases[1].url.clone()];
    let folder = tempfile::tempdir()?;
    let nodes = Nodes::open(&urls, folder.path(), &servers.zookeeper).await?;
    let mut figures = Vec::new();
    for clients in CLIENTS {
        let mut costs: [Vec<Cost>; MODES.len()] = Default::default();
        for round in 0..options.rounds {
            let mut order: Vec<usize> = (0..MODES.len()).collect();
            order.rotate_left(round % MODES.len());
            for at in order {
                let seconds = Duration::from_secs(options.transfer_seconds);
                costs[at].push(cost(&urls, MODES[at], nodes.of(MODES[at]), clients, seconds).await?);
            }
        }
        figures.extend(compared(clients, &costs));
    }
    nodes.close().await;
    for database in databases {
        database.drop().await?;
    }
    Ok(figures)
}

fn compared(clients: usize, costs: &[Vec<Cost>; MODES.len()]) -> Vec<Figure> {
    let mut figures = Vec::new();
    let budget = match clients {
        64.. => AtLeast(0.88),
        16.. => AtLeast(0.75),
        _ => Free,
    };
    for (mode, found) in MODES.iter().zip(costs) {
        let rates = found.iter().map(|cost| cost.transfers_per_s).collect();
        figures.push(Figure::new(format!("{clients} at a time: {mode:?}, transfers/s"), Free, rates));
        let times = found.iter().map(|cost| cost.ms).collect();
        figures.push(Figure::new(format!("{clients} at a time: {mode:?}, ms (p50)"), Free, times));
    }
    let floor = &costs[1];
    for (at, name) in [(2, "file"), (3, "ZooKeeper")] {
        let pairs = costs[at].iter().zip(floor);
        let ratios = pairs.map(|(ours, floor)| ours.transfers_per_s / floor.transfers_per_s).collect();
        figures.push(Figure::new(format!("{clients} at a time: decided in {name} : floor"), budget, ratios));
    }
    figures
}

/// One for each decision log.
struct Nodes {
    file: Arc<Node>,
    zookeeper: Arc<Node>,
}

impl Nodes {
    async fn open(urls: &[String; 2], folder: &std::path::Path, servers: &str) -> Result<Self> {
        let (namespace, incarnation) = (format!("b{}", std::process::id()).parse()?, Incarnation::random());
        let file: Arc<dyn DecisionLog> = Arc::new(FileDecisionLog::new(folder, incarnation));
        let file = open(urls, file, Arc::new(FileLocks::new(folder, incarnation)))?;
        let settings = ZookeeperSettings {
            servers: servers.to_string(),
            chroot: None,
            session_timeout: Duration::from_secs(10),
            user: None,
            password: None,
            require_acl: false,
            tls: None,
        };
        zookeeper::init(&settings, &namespace, incarnation).await?;
        let zookeeper: Arc<dyn DecisionLog> =
            Arc::new(ZookeeperDecisionLog::new(settings.clone(), &namespace, incarnation)?);
        let locks = Arc::new(ZookeeperLocks::new(settings, &namespace, incarnation)?);
        Ok(Nodes { file, zookeeper: open(urls, zookeeper, locks)? })
    }

    fn of(&self, mode: Mode) -> Option<Arc<Node>> {
        match mode {
            Mode::Plain | Mode::Floor => None,
            Mode::File => Some(Arc::clone(&self.file)),
            Mode::Zookeeper => Some(Arc::clone(&self.zookeeper)),
        }
    }

    async fn close(self) {
        for node in [self.file, self.zookeeper].into_iter().filter_map(Arc::into_inner) {
            node.close().await;
        }
    }
}

fn open(urls: &[String; 2], log: Arc<dyn DecisionLog>, locks: Arc<dyn LockStore>) -> Result<Arc<Node>> {
    let mut members = Vec::new();
    for (name, url) in ["one", "two"].into_iter().zip(urls) {
        let port = PostgresParticipant::new(&url.parse()?, "onecommit", CONNECTIONS, LIMIT);
        members.push(Member::new(name.parse()?, Arc::new(port), None));
    }
    let (namespace, incarnation) = ("bench".parse()?, Incarnation::random());
    Ok(Arc::new(Node::open(namespace, incarnation, members, log, locks, CoordinatorSettings::default())))
}

async fn cost(
    urls: &[String; 2],
    mode: Mode,
    node: Option<Arc<Node>>,
    clients: usize,
    limit: Duration,
) -> Result<Cost> {
    let together = Arc::new(tokio::sync::Barrier::new(clients));
    let mut running = Vec::new();
    for client in 0..clients {
        let connections = [connect(&urls[0]).await?, connect(&urls[1]).await?];
        let (node, together) = (node.clone(), Arc::clone(&together));
        running.push(tokio::spawn(async move {
            let account = i32::try_from(client)? * ACCOUNTS / 64 % ACCOUNTS;
            // What is only made once.
            transfer(&connections, mode, node.as_deref(), account).await?;
            together.wait().await;
            let (began, mut times) = (Instant::now(), Vec::new());
            while began.elapsed() < limit {
                let one = Instant::now();
                transfer(&connections, mode, node.as_deref(), account).await?;
                times.push(one.elapsed().as_secs_f64() * 1000.0);
            }
            Result::Ok(times)
        }));
    }
    let mut times = Vec::new();
    for one in running {
        times.extend(one.await??);
    }
    times.sort_by(f64::total_cmp);
    Ok(Cost { transfers_per_s: times.len() as f64 / limit.as_secs_f64(), ms: percentile(&times, 0.5) })
}

async fn transfer(connections: &[Client; 2], mode: Mode, node: Option<&Node>, account: i32) -> Result<()> {
    let update = format!("update account set balance = balance + 1 where id = {account}");
    let both = async |sql: [&str; 2]| {
        let sent = connections.iter().zip(sql).map(|(connection, sql)| connection.batch_execute(sql));
        try_join_all(sent).await
    };
    if let Some(node) = node {
        let branches = [("one".parse()?, &connections[0]), ("two".parse()?, &connections[1])];
        let transaction = node.transaction(&branches, Asked::default()).await?;
        both([&update, &update]).await?;
        transaction.commit().await?;
        return Ok(());
    }
    both(["begin", "begin"]).await?;
    both([&update, &update]).await?;
    if mode == Mode::Plain {
        both(["commit", "commit"]).await?;
        return Ok(());
    }
    let name = uuid::Uuid::new_v4();
    let names = [format!("prepare transaction '{name}-1'"), format!("prepare transaction '{name}-2'")];
    both([&names[0], &names[1]]).await?;
    let names = [format!("commit prepared '{name}-1'"), format!("commit prepared '{name}-2'")];
    both([&names[0], &names[1]]).await?;
    Ok(())
}
