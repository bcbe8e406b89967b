//! Transactions over two real databases: what their caller is told, and what is in the databases
//! afterwards, with the decision log in a file and in ZooKeeper.

mod by_hand;
mod crash;
mod endings;
#[cfg(feature = "cli")]
mod failover;
mod isolation;
mod locks;
mod mistakes;
mod one_phase;
mod recovery;
#[cfg(feature = "cli")]
mod reproduced;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use onecommit::coordinator::{
    CoordinatorSettings, Dialogue, Failure, Member, Next, Node, Options, Transaction,
};
use onecommit::decision_log::file::FileDecisionLog;
use onecommit::decision_log::zookeeper::ZookeeperDecisionLog;
use onecommit::decision_log::{DecisionLog, LogSession};
use onecommit::id::{Incarnation, Namespace, ParticipantName};
use onecommit::lock::LockStore;
use onecommit::lock::file::FileLocks;
use onecommit::lock::zookeeper::ZookeeperLocks;
use onecommit::outbox::postgres::print_sql;
use onecommit::participant::postgres::PostgresParticipant;
use onecommit::protocol::retry::Backoff;
use onecommit::zookeeper::{self, ZookeeperSettings};
use onecommit::{Error, Result};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};
use uuid::Uuid;

use crate::outbox_postgres::{USUAL, server};
use crate::patience::{LIMIT, answered, until};

pub(crate) const NAMES: [&str; 2] = ["orders", "billing"];
const CONNECTIONS: usize = 4;
/// Where a test waits for nobody's death.
const LONG: Duration = Duration::from_secs(120);
const SHORT: Duration = Duration::from_secs(2);

/// Where the decisions are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Log {
    File,
    Zookeeper,
}

/// Two databases of an installation's own, with an account in each.
pub(crate) struct Place {
    log: Log,
    urls: [String; 2],
    namespace: Namespace,
    incarnation: Incarnation,
    directory: PathBuf,
    _kept: Option<tempfile::TempDir>,
    /// After this long a node that is gone counts as dead.
    session_timeout: Duration,
}

impl Place {
    pub(crate) async fn new(log: Log) -> Place {
        Place::with_sessions_of(log, LONG).await
    }

    async fn with_sessions_of(log: Log, session_timeout: Duration) -> Place {
        let url = server(USUAL);
        Place::on(log, session_timeout, [&url, &url]).await
    }

    /// Its databases on these servers.
    async fn on(log: Log, session_timeout: Duration, servers: [&str; 2]) -> Place {
        let mut urls = Vec::new();
        for (name, url) in NAMES.into_iter().zip(servers) {
            let admin = connect(url).await;
            let database = format!("{name}_{}", Uuid::new_v4().simple());
            admin.batch_execute(&format!("create database {database}")).await.unwrap();
            let (server, _) = url.rsplit_once('/').unwrap();
            urls.push(format!("{server}/{database}"));
            let client = connect(&urls[urls.len() - 1]).await;
            client.batch_execute(&print_sql("onecommit", 0)).await.unwrap();
            let account = "create table account (id int primary key, total int not null check (total >= 0)); \
                           insert into account values (1, 100), (2, 100), (3, 100); \
                           create table entry (number int primary key)";
            client.batch_execute(account).await.unwrap();
        }
        let directory = tempfile::tempdir().unwrap();
        let place = Place {
            log,
            urls: [urls.remove(0), urls.remove(0)],
            namespace: format!("t{}", &Uuid::new_v4().simple().to_string()[..20]).parse().unwrap(),
            incarnation: Incarnation::random(),
            directory: directory.path().to_path_buf(),
            _kept: Some(directory),
            session_timeout,
        };
        if log == Log::Zookeeper {
            let settings = place.zookeeper();
            answered(async || zookeeper::init(&settings, &place.namespace, place.incarnation).await).await;
        }
        place
    }

    /// The same place, for another runtime or process.
    fn copy(&self) -> Place {
        Place::from_text(&self.to_text())
    }

    /// The same place for one that has to live, also where the machine stands still: it would go on asking in a
    /// session that is over.
    fn lasting(&self) -> Place {
        Place { session_timeout: LONG, ..self.copy() }
    }

    fn to_text(&self) -> String {
        let log = if self.log == Log::File { "file" } else { "zookeeper" };
        let Place { urls: [orders, billing], namespace, incarnation, .. } = self;
        let (directory, timeout_ms) = (self.directory.display(), self.session_timeout.as_millis());
        format!("{log} {orders} {billing} {namespace} {incarnation} {directory} {timeout_ms}")
    }

    fn from_text(text: &str) -> Place {
        let parts: Vec<&str> = text.split(' ').collect();
        let [log, orders, billing, namespace, incarnation, directory, timeout_ms] = parts[..] else {
            panic!("{text}")
        };
        Place {
            log: if log == "file" { Log::File } else { Log::Zookeeper },
            urls: [orders.to_string(), billing.to_string()],
            namespace: namespace.parse().unwrap(),
            incarnation: incarnation.parse().unwrap(),
            directory: directory.into(),
            _kept: None,
            session_timeout: Duration::from_millis(timeout_ms.parse().unwrap()),
        }
    }

    /// A file of settings for a relay of `orders`. Its folder is its own: it is of another incarnation than
    /// the decisions in a file.
    fn configuration(&self) -> String {
        let Place { namespace, urls: [orders, billing], .. } = self;
        let zookeeper = match self.log {
            Log::Zookeeper => format!("[zookeeper]\nservers = \"{}\"\n", self.zookeeper().servers),
            Log::File => String::new(),
        };
        format!(
            "namespace = \"{namespace}\"\ndata_dir = \"{}\"\n{zookeeper}\
             [participants.orders]\nurl = \"{orders}\"\noutbox = true\nshards = 1\n\
             [participants.billing]\nurl = \"{billing}\"\n",
            self.directory.join("relay").display()
        )
    }

    fn zookeeper(&self) -> ZookeeperSettings {
        let servers =
            std::env::var("ONECOMMIT_TEST_ZOOKEEPER").expect("run under `python -m tests.servers run`");
        let session_timeout = self.session_timeout;
        ZookeeperSettings {
            servers,
            chroot: None,
            session_timeout,
            user: None,
            password: None,
            require_acl: false,
            tls: None,
        }
    }

    /// Where its messages go.
    pub(crate) fn topic(&self) -> &str {
        self.namespace.as_str()
    }

    /// A session with the decision log, as soon as it answers.
    pub(crate) async fn session(&self) -> Box<dyn LogSession> {
        let log = self.decision_log();
        answered(async || log.open().await).await
    }

    pub(crate) fn decision_log(&self) -> Arc<dyn DecisionLog> {
        match self.log {
            Log::File => Arc::new(FileDecisionLog::new(&self.directory, self.incarnation)),
            Log::Zookeeper => Arc::new(
                ZookeeperDecisionLog::new(self.zookeeper(), &self.namespace, self.incarnation).unwrap(),
            ),
        }
    }

    pub(crate) fn locks(&self) -> Arc<dyn LockStore> {
        match self.log {
            Log::File => Arc::new(FileLocks::new(&self.directory, self.incarnation)),
            Log::Zookeeper => {
                Arc::new(ZookeeperLocks::new(self.zookeeper(), &self.namespace, self.incarnation).unwrap())
            }
        }
    }

    fn members(&self) -> Vec<Member> {
        NAMES.into_iter().zip(&self.urls).map(|(name, url)| member(name, url, name == "orders")).collect()
    }

    pub(crate) fn node(&self) -> Node {
        self.node_with(self.decision_log())
    }

    fn node_with(&self, log: Arc<dyn DecisionLog>) -> Node {
        self.node_of(self.members(), log)
    }

    fn node_of(&self, members: Vec<Member>, log: Arc<dyn DecisionLog>) -> Node {
        let (namespace, locks) = (self.namespace.clone(), self.locks());
        Node::open(namespace, self.incarnation, members, log, locks, settings())
    }

    /// A node that keeps its decisions: no mark ever covers them.
    fn node_that_forgets_nothing(&self) -> Node {
        self.node_as(CoordinatorSettings { mark_interval: LONG, ..settings() })
    }

    fn node_as(&self, settings: CoordinatorSettings) -> Node {
        let (namespace, log, locks) = (self.namespace.clone(), self.decision_log(), self.locks());
        Node::open(namespace, self.incarnation, self.members(), log, locks, settings)
    }

    /// Has the first participant on another server, with the same databases.
    fn move_orders(&mut self, server: &str) {
        let (_, database) = self.urls[0].rsplit_once('/').unwrap();
        self.urls[0] = format!("{}/{database}", server.rsplit_once('/').unwrap().0);
    }

    /// Connections of the application's own.
    pub(crate) async fn clients(&self) -> [Client; 2] {
        [connect(&self.urls[0]).await, connect(&self.urls[1]).await]
    }

    /// The first account's total in each database.
    pub(crate) async fn totals(&self) -> [i32; 2] {
        let clients = self.clients().await;
        let mut totals = [0; 2];
        for (client, total) in clients.iter().zip(&mut totals) {
            *total = client.query_one("select total from account where id = 1", &[]).await.unwrap().get(0);
        }
        totals
    }

    /// How many branches are prepared, in both together.
    pub(crate) async fn prepared(&self) -> i64 {
        let sql = "select count(*) from pg_prepared_xacts where database = current_database()";
        let mut prepared = 0;
        for client in self.clients().await {
            prepared += client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0);
        }
        prepared
    }

    /// Waits until no branch is prepared any more.
    pub(crate) async fn settled(&self) {
        until("every branch is settled", async || Ok(self.prepared().await), |prepared| *prepared == 0).await;
    }
}

fn member(name: &str, url: &str, outbox: bool) -> Member {
    let port = PostgresParticipant::new(&url.parse().unwrap(), "onecommit", CONNECTIONS, LONG);
    Member::new(name.parse().unwrap(), Arc::new(port), outbox.then(|| "onecommit".to_string()))
}

pub(crate) fn settings() -> CoordinatorSettings {
    CoordinatorSettings {
        deadline: LIMIT,
        mark_interval: Duration::from_millis(50),
        sweep_interval: Duration::from_millis(50),
        orphan_interval: Duration::from_millis(100),
        retry: Backoff { first: Duration::from_millis(10), limit: Duration::from_millis(200) },
        ..CoordinatorSettings::default()
    }
}

pub(crate) async fn connect(url: &str) -> Client {
    let (client, driver) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(driver);
    client
}

pub(crate) fn names() -> Vec<ParticipantName> {
    NAMES.iter().map(|name| name.parse().unwrap()).collect()
}

pub(crate) async fn begin<'a>(node: &Node, clients: &'a [Client; 2]) -> Result<Transaction<'a>> {
    let branches: Vec<_> = names().into_iter().zip(clients).collect();
    node.transaction(&branches, Options::default()).await
}

/// Moves money from the first database to the second.
pub(crate) async fn move_money(clients: &[Client; 2]) {
    move_money_of(clients, 1).await;
}

/// The same from an account, and to it.
pub(crate) async fn move_money_of(clients: &[Client; 2], account: i32) {
    for (client, change) in clients.iter().zip([-10, 10]) {
        let sql = format!("update account set total = total + {change} where id = {account}");
        client.batch_execute(&sql).await.unwrap();
    }
}

/// Goes on with a transaction by hand until `stop` says so of what comes next; the last is returned.
pub(crate) async fn drive(
    dialogue: &mut Dialogue,
    clients: &[Client; 2],
    mut stop: impl FnMut(&Next) -> bool,
) -> Next {
    loop {
        let next = dialogue.next_step();
        if stop(&next) || matches!(next, Next::Open | Next::Ended(_)) {
            return next;
        }
        match next {
            Next::Send(messages) => {
                let mut answers = Vec::new();
                for message in messages {
                    let answered = clients[message.branch].simple_query(&message.sql).await;
                    let failed = |error: tokio_postgres::Error| Failure {
                        code: error.code().map(|code| code.code().to_string()),
                        source: Box::new(error),
                    };
                    answers.push(answered.map_err(failed).map(|found| last_row(&found)));
                }
                dialogue.answered(answers).await;
            }
            _ => dialogue.work().await,
        }
    }
}

fn last_row(found: &[SimpleQueryMessage]) -> Vec<Option<String>> {
    let row = found.iter().rev().find_map(|one| match one {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    row.map_or_else(Vec::new, |row| (0..row.len()).map(|at| row.get(at).map(str::to_string)).collect())
}

pub(crate) fn text(error: &Error) -> String {
    error.to_string()
}
