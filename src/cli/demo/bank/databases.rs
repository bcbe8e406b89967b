//! The bank's two databases, and the installation that they take part in.

use std::path::PathBuf;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio_postgres::Row;
use uuid::Uuid;

use super::books::Entries;
use super::server::Server;
use crate::cli::demo::folder::Folder;
use crate::cli::demo::stage::relay_settings;
use crate::config::{Config, PostgresUrl, Relay};
use crate::error::{Error, ErrorKind, Result};
use crate::id::TransactionId;
use crate::postgres::connect::{OwnedClient, connect, within};
use crate::protocol::branch::BranchName;
use crate::protocol::retry::Backoff;
use crate::service;

const OPERATION: &str = "demo bank";
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
const DROP_RETRIES: u32 = 8;
const DROP_RETRY: Backoff = Backoff { first: Duration::from_millis(50), limit: Duration::from_secs(1) };
/// The participants; messages wait in the first one.
pub(super) const NAMES: [&str; 2] = ["north", "south"];
/// The topic that transfers are published to.
pub(super) const TOPIC: &str = "transfer.made";
pub(super) const ACCOUNTS: u32 = 10;
/// What each database has in all its accounts at first.
pub(super) const MONEY: i64 = 1000;

/// See the module. The databases go with this value.
pub(super) struct Databases<'a> {
    runtime: &'a Runtime,
    server: &'a Server,
    names: [String; 2],
    /// Those that are there, or may be.
    made: Vec<String>,
    clients: Vec<OwnedClient>,
    folder: Folder,
    pub(super) config: Config,
    pub(super) config_file: PathBuf,
}

impl<'a> Databases<'a> {
    /// Makes the databases with their accounts, the configuration, and what `init` makes.
    pub(super) fn make(runtime: &'a Runtime, server: &'a Server, settings: Option<Relay>) -> Result<Self> {
        let folder = Folder::make()?;
        let marker = Uuid::new_v4().simple().to_string();
        let names = NAMES.map(|name| format!("onecommit_demo_{name}_{}", &marker[..8]));
        let data_dir = toml::Value::String(folder.path().join("data").display().to_string());
        let [north, south] =
            [0, 1].map(|place: usize| toml::Value::String(server.url_of(Some(&names[place]))));
        let relay = relay_settings(settings)?;
        // Who is dead is noticed soon: it is to be seen.
        let text = format!(
            "namespace = \"demo\"\ndata_dir = {data_dir}\n[relay]\n{relay}[coordinator]\nsweep_interval_ms = 200\n\
             [participants.north]\nurl = {north}\noutbox = true\n[participants.south]\nurl = {south}\n"
        );
        let config_file = folder.path().join("onecommit.toml");
        std::fs::write(&config_file, &text).map_err(|error| {
            Error::new(ErrorKind::Failed, OPERATION, "the demo's folder can't be written").caused_by(error)
        })?;
        let config = Config::from_toml(&text, [])?;
        let (made, clients) = (Vec::new(), Vec::new());
        let mut databases = Databases { runtime, server, names, made, clients, folder, config, config_file };
        databases.create()?;
        runtime.block_on(service::init(&databases.config, &[], None, &|_| {}))?;
        Ok(databases)
    }

    fn create(&mut self) -> Result<()> {
        let admin = self.connect(None)?;
        let prepared = "select current_setting('max_prepared_transactions')::int";
        let rows = self.runtime.block_on(within(REQUEST_LIMIT, OPERATION, admin.query(prepared, &[])))?;
        if rows.first().is_some_and(|row| row.get::<_, i32>(0) == 0) {
            let why = "this PostgreSQL prepares no transactions: set max_prepared_transactions = 50 in its \
                       postgresql.conf and restart it, or name another server with --postgres URL";
            return Err(Error::new(ErrorKind::Configuration, OPERATION, why).with("url", self.url(None)?));
        }
        for name in self.names.clone() {
            let create = format!("create database {name}");
            self.made.push(name.clone());
            self.runtime.block_on(within(REQUEST_LIMIT, OPERATION, admin.batch_execute(&create)))?;
            let client = self.connect(Some(&name))?;
            let tables = format!(
                "create table account (id int primary key, total bigint not null check (total >= 0)); \
                 insert into account select n, {MONEY} / {ACCOUNTS} from generate_series(1, {ACCOUNTS}) n; \
                 create table entry (transfer text primary key, amount bigint not null)"
            );
            self.runtime.block_on(within(REQUEST_LIMIT, OPERATION, client.batch_execute(&tables)))?;
            self.clients.push(client);
        }
        Ok(())
    }

    fn url(&self, database: Option<&str>) -> Result<PostgresUrl> {
        self.server.url_of(database).parse()
    }

    fn connect(&self, database: Option<&str>) -> Result<OwnedClient> {
        self.runtime.block_on(connect(&self.url(database)?, OPERATION, REQUEST_LIMIT))
    }

    /// The rows of a query, in each of the databases.
    fn ask(&self, query: &str) -> Result<[Vec<Row>; 2]> {
        let ask = |client: &OwnedClient| {
            self.runtime.block_on(within(REQUEST_LIMIT, OPERATION, client.query(query, &[])))
        };
        let [north, south] = &self.clients[..] else {
            return Err(Error::new(ErrorKind::Failed, OPERATION, "the databases are not made yet"));
        };
        Ok([ask(north)?, ask(south)?])
    }

    /// The transactions of which a branch is prepared in one of them.
    pub(super) fn prepared(&self) -> Result<Vec<TransactionId>> {
        let query = "select gid from pg_prepared_xacts where database = current_database()";
        let rows = self.ask(query)?.into_iter().flatten();
        Ok(rows.filter_map(|row| BranchName::parse(row.get(0))).map(|name| name.transaction).collect())
    }

    /// The money in each of them.
    pub(super) fn totals(&self) -> Result<[i64; 2]> {
        let rows = self.ask("select sum(total)::bigint from account")?;
        Ok(rows.map(|rows| rows.first().map_or(0, |row| row.get(0))))
    }

    /// The transfers that each of them knows.
    pub(super) fn entries(&self) -> Result<[Entries; 2]> {
        let [north, south] = self.ask("select transfer, amount from entry")?;
        let entry = |row: &Row| Ok((row.get::<_, &str>(0).parse()?, row.get(1)));
        let entries = |rows: Vec<Row>| rows.iter().map(entry).collect::<Result<Entries>>();
        Ok([entries(north)?, entries(south)?])
    }

    /// Where a process's own words go.
    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    /// The topic log's file.
    pub(super) fn topic_log(&self) -> PathBuf {
        self.config.data_dir.join("topics.db")
    }

    /// What a killed process had sent may be done by its server later: then there is another branch, and it is begun
    /// anew.
    fn drop_all(&self) -> Result<()> {
        let mut failures = 0;
        loop {
            match self.try_to_drop_all() {
                Err(error) if error.kind() != ErrorKind::Unreachable && failures < DROP_RETRIES => {
                    failures += 1;
                }
                ended => return ended,
            }
            std::thread::sleep(DROP_RETRY.wait(failures, 0.5));
        }
    }

    fn try_to_drop_all(&self) -> Result<()> {
        let run = |client: &OwnedClient, sql: &str| {
            self.runtime.block_on(within(REQUEST_LIMIT, OPERATION, client.batch_execute(sql)))
        };
        for client in &self.clients {
            // Cut off in the middle: a database with a prepared branch can't be dropped.
            let query = "select format('rollback prepared %L', gid) from pg_prepared_xacts \
                         where database = current_database()";
            let rows = self.runtime.block_on(within(REQUEST_LIMIT, OPERATION, client.query(query, &[])))?;
            rows.iter().try_for_each(|row| run(client, row.get(0)))?;
        }
        let admin = self.connect(None)?;
        self.made
            .iter()
            .try_for_each(|name| run(&admin, &format!("drop database if exists {name} with (force)")))
    }
}

impl Drop for Databases<'_> {
    fn drop(&mut self) {
        if self.server.is_given
            && !self.made.is_empty()
            && let Err(error) = self.drop_all()
        {
            tracing::warn!(%error, databases = self.made.join(", "), "the demo's databases are left behind");
        }
    }
}
