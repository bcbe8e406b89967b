//! The participant port on PostgreSQL. Every call is one statement, on whichever connection is free.

use std::time::Duration;

use async_trait::async_trait;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row as Found};

use super::instance::{self, COLUMNS, WIDTH, decode, get, only, parameters};
use super::pool::Pool;
use super::{branch, history, timelines};
use crate::config::PostgresUrl;
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::{CoordinatorId, MessageId};
use crate::participant::{End, Ended, Instance, Marked, Participant, PreparedBranch};
use crate::postgres::connect::{DURABLE, Parameter, alone, limits, within};
use crate::postgres::failure::code;
use crate::postgres::{literal, quoted};
use crate::protocol::branch::BranchName;
use crate::protocol::fate::{Fate, Switch};
use crate::protocol::history::{CompareAndSet, Row};

const END: &str = "end branch";
/// There is no prepared transaction of that name.
const NOT_THERE: &str = "42704";
/// Somebody else is ending that very branch; or the server is in recovery.
const NOT_NOW: &str = "55000";
/// A number of a transaction that was never handed out.
const IN_THE_FUTURE: &str = "22023";

/// A database of a PostgreSQL server that takes part in transactions.
pub struct PostgresParticipant {
    pool: Pool,
    /// Quoted.
    pub(super) schema: String,
    request_limit: Duration,
}

impl PostgresParticipant {
    /// The database at `url`, in whose `schema` `onecommit init` has made the tables. At most so many
    /// connections are opened, when they are needed; a request waits for one, for the server to
    /// connect, and for its answer, each for `request_limit` at most.
    pub fn new(url: &PostgresUrl, schema: &str, connections: usize, request_limit: Duration) -> Self {
        let schema = quoted(schema);
        let pool = Pool::new(url.clone(), schema.clone(), connections, request_limit);
        PostgresParticipant { pool, schema, request_limit }
    }

    /// Reads by one statement.
    pub(super) async fn read<T>(
        &self,
        operation: &'static str,
        sql: &str,
        parameters: &[Parameter<'_>],
        decode: impl FnOnce(Vec<Found>) -> Result<T>,
    ) -> Result<T> {
        let taken = self.pool.take().await?;
        let asked = within(self.request_limit, operation, taken.client.query_typed(sql, parameters)).await;
        let found = decode(asked.map_err(retriable)?)?;
        taken.put_back();
        Ok(found)
    }

    /// Writes by one statement, in a transaction of its own that waits for its flush.
    async fn write<T>(
        &self,
        operation: &'static str,
        sql: &str,
        parameters: &[Parameter<'_>],
        decode: impl FnOnce(Vec<Found>) -> Result<T>,
    ) -> Result<T> {
        let begin = format!("begin; {DURABLE}; {}", limits(self.request_limit));
        let taken = self.pool.take().await?;
        let statement = taken.client.query_typed(sql, parameters);
        let asked = within(self.request_limit, operation, alone(&taken.client, &begin, statement)).await;
        let found = decode(asked.map_err(retriable)?)?;
        taken.put_back();
        Ok(found)
    }

    /// Ends a branch by `sql`, as `owner` where that is somebody else than this login.
    async fn end_by(&self, sql: &str, owner: Option<&str>) -> Result<Ended> {
        let taken = self.pool.take().await?;
        let ended = match owner.filter(|owner| !taken.may_end_for(owner)) {
            None => self.send(&taken.client, sql).await?,
            Some(owner) => {
                let other = self.pool.open_as(owner).await;
                self.send(&*other.map_err(|error| can_not_act(error, owner))?, sql).await?
            }
        };
        taken.put_back();
        Ok(ended)
    }

    async fn send(&self, client: &Client, sql: &str) -> Result<Ended> {
        match within(self.request_limit, END, client.batch_execute(sql)).await {
            Ok(()) => Ok(Ended::Now),
            Err(error) if code(&error) == Some(NOT_THERE) => Ok(Ended::NotThere),
            Err(error) => Err(retriable(error)),
        }
    }
}

#[async_trait]
impl Participant for PostgresParticipant {
    async fn instance(&self) -> Result<Instance> {
        const OPERATION: &str = "read instance";
        let sql = format!("with {} select {COLUMNS} from instance", instance::instance(&self.schema));
        self.read(OPERATION, &sql, &[], |rows| decode(OPERATION, &only(OPERATION, rows)?)).await
    }

    async fn prepared(&self) -> Result<(Instance, Vec<PreparedBranch>)> {
        const OPERATION: &str = "list branches";
        let sql = format!(
            "with {} select {COLUMNS}, p.gid, p.owner::text,
               (extract(epoch from clock_timestamp() - p.prepared) * 1000)::bigint
             from instance left join pg_prepared_xacts p on p.database = current_database()",
            instance::instance(&self.schema)
        );
        let decode = |rows: Vec<Found>| {
            let mut branches = Vec::new();
            for row in &rows {
                let name = get::<Option<&str>>(OPERATION, row, WIDTH)?.and_then(BranchName::parse);
                if let Some(name) = name {
                    // A clock that was set back makes it younger than nothing.
                    let age_ms = u64::try_from(get::<i64>(OPERATION, row, WIDTH + 2)?).unwrap_or(0);
                    let (owner, age) = (get(OPERATION, row, WIDTH + 1)?, Duration::from_millis(age_ms));
                    branches.push(PreparedBranch { name, owner, age });
                }
            }
            Ok((decode(OPERATION, &only(OPERATION, rows)?)?, branches))
        };
        self.read(OPERATION, &sql, &[], decode).await
    }

    async fn end(&self, name: &BranchName, owner: Option<&str>, end: End) -> Result<Ended> {
        let word = match end {
            End::Commit => "commit",
            End::RollBack => "rollback",
        };
        // By itself: it can't stand in a transaction.
        let sql = format!("{word} prepared {}", literal(&name.to_string()));
        failpoint!("participant.end.before_commit")?;
        let ended = self.end_by(&sql, owner).await.map_err(|error| error.with("branch", name))?;
        failpoint!("participant.end.after_commit")?;
        Ok(ended)
    }

    async fn fate(&self, xid: u64) -> Result<(Instance, Fate)> {
        const OPERATION: &str = "read fate";
        let sql = format!(
            "with {} select {COLUMNS}, pg_xact_status($1::text::xid8) from instance",
            instance::instance(&self.schema)
        );
        let decode = |rows| {
            let row = only(OPERATION, rows)?;
            let fate = branch::fate(OPERATION, get(OPERATION, &row, WIDTH)?)?;
            Ok((decode(OPERATION, &row)?, fate))
        };
        match self.read(OPERATION, &sql, &[(&xid.to_string(), Type::TEXT)], decode).await {
            Err(error) if code(&error) == Some(IN_THE_FUTURE) => Ok((self.instance().await?, Fate::Unknown)),
            answer => answer,
        }
    }

    async fn has_message(&self, xid: u64, message: MessageId) -> Result<bool> {
        const OPERATION: &str = "look for message";
        // There is an index by the number, and none by the message's id.
        let sql = format!(
            "select exists (select from {}.outbox where xid = $1::text::xid8 and message_id = $2)",
            self.schema
        );
        let parameters: [Parameter<'_>; 2] = [(&xid.to_string(), Type::TEXT), (&message.0, Type::UUID)];
        let decode = |rows| get(OPERATION, &only(OPERATION, rows)?, 0);
        self.read(OPERATION, &sql, &parameters, decode).await
    }

    async fn timelines(&self) -> Result<(Instance, Vec<Switch>)> {
        let sql = timelines::read(&self.schema);
        let decode = |rows| {
            let row = only(timelines::OPERATION, rows)?;
            let left = timelines::decode(get(timelines::OPERATION, &row, WIDTH)?)?;
            Ok((decode(timelines::OPERATION, &row)?, left))
        };
        self.read(timelines::OPERATION, &sql, &[], decode).await.map_err(timelines::refused)
    }

    async fn can_act_as(&self, role: &str) -> Result<bool> {
        const OPERATION: &str = "look at role";
        // From PostgreSQL 16 on a member may have been denied SET ROLE. It is asked of the session's
        // user that a connection is opened by.
        let sql = "select rolname = current_user or pg_has_role(session_user, oid,
                     case when current_setting('server_version_num')::int < 160000 then 'MEMBER' else 'SET' end)
                   from pg_roles where rolname = $1";
        let decode = |rows: Vec<Found>| rows.first().map_or(Ok(false), |row| get(OPERATION, row, 0));
        self.read(OPERATION, sql, &[(&role, Type::TEXT)], decode).await
    }

    async fn open_history(&self, coordinator: CoordinatorId) -> Result<()> {
        const OPERATION: &str = "open history row";
        let parameters: [Parameter<'_>; 1] = [(&coordinator.0, Type::UUID)];
        failpoint!("participant.open_history.before_commit")?;
        let is_new = |rows: Vec<Found>| Ok(!rows.is_empty());
        let made = self.write(OPERATION, &history::open(&self.schema), &parameters, is_new).await?;
        failpoint!("participant.open_history.after_commit")?;
        if made {
            return Ok(());
        }
        let why = "there is a history row of this coordinator: another node has settled it";
        Err(Error::new(ErrorKind::Fenced, OPERATION, why).with("coordinator", coordinator))
    }

    async fn history(&self, coordinator: CoordinatorId) -> Result<(Instance, Option<Row>)> {
        const OPERATION: &str = "read history row";
        let decode = |rows| {
            let row = only(OPERATION, rows)?;
            Ok((decode(OPERATION, &row)?, history::decode(OPERATION, &row)?))
        };
        let parameters: [Parameter<'_>; 1] = [(&coordinator.0, Type::UUID)];
        self.read(OPERATION, &history::read(&self.schema), &parameters, decode).await
    }

    async fn mark(
        &self,
        coordinator: CoordinatorId,
        write: CompareAndSet,
        instance: &Instance,
    ) -> Result<Marked> {
        const OPERATION: &str = "write mark";
        // One that is there already is written once more: that it can be seen does not mean that it
        // has reached a synchronous standby.
        let expected = [write.expected[0], write.expected[1], write.mark];
        let number = |mark: u64| {
            let why = "a mark that PostgreSQL's bigint can't hold";
            i64::try_from(mark).map_err(|_| Error::new(ErrorKind::Invalid, OPERATION, why).with("mark", mark))
        };
        let numbers = expected.map(number).into_iter().collect::<Result<Vec<_>>>()?;
        let mut values = parameters(instance).to_vec();
        values.push((&coordinator.0, Type::UUID));
        values.push((&numbers[2], Type::INT8));
        values.push((&numbers, Type::INT8_ARRAY));
        let decode = |rows| history::decode_marked(OPERATION, &only(OPERATION, rows)?, instance, &expected);
        failpoint!("participant.mark.before_commit")?;
        let marked = self.write(OPERATION, &history::mark(&self.schema), &values, decode).await?;
        failpoint!("participant.mark.after_commit")?;
        Ok(marked)
    }

    async fn close_history(&self, coordinator: CoordinatorId, instance: &Instance) -> Result<bool> {
        const OPERATION: &str = "close history row";
        let mut values = parameters(instance).to_vec();
        values.push((&coordinator.0, Type::UUID));
        let decode = |rows| {
            let row = only(OPERATION, rows)?;
            decode(OPERATION, &row)?;
            get(OPERATION, &row, WIDTH)
        };
        failpoint!("participant.close_history.before_commit")?;
        let closed = self.write(OPERATION, &history::close(&self.schema), &values, decode).await?;
        failpoint!("participant.close_history.after_commit")?;
        Ok(closed)
    }

    async fn forget_histories(&self, days: u32) -> Result<u64> {
        const OPERATION: &str = "forget history rows";
        let days = i32::try_from(days).unwrap_or(i32::MAX);
        failpoint!("participant.forget_histories.before_commit")?;
        let count = |rows: Vec<Found>| Ok(rows.len() as u64);
        let parameters: [Parameter<'_>; 1] = [(&days, Type::INT4)];
        let gone = self.write(OPERATION, &history::forget(&self.schema), &parameters, count).await?;
        failpoint!("participant.forget_histories.after_commit")?;
        Ok(gone)
    }

    async fn lock_floor(&self) -> Result<i64> {
        const OPERATION: &str = "read lock floor";
        let decode = |rows: Vec<Found>| rows.first().map_or(Ok(0), |row| get(OPERATION, row, 0));
        self.read(OPERATION, &history::lock_floor(&self.schema), &[], decode).await
    }

    async fn raise_lock_floor(&self, number: i64) -> Result<()> {
        const OPERATION: &str = "raise lock floor";
        let parameters: [Parameter<'_>; 1] = [(&number, Type::INT8)];
        failpoint!("participant.raise_lock_floor.before_commit")?;
        self.write(OPERATION, &history::raise_lock_floor(&self.schema), &parameters, |_| Ok(())).await?;
        failpoint!("participant.raise_lock_floor.after_commit")
    }

    fn forget_lock_floor(&self) -> String {
        history::forget_lock_floor(&self.schema)
    }
}

/// What can only be waited for is told as such.
fn retriable(error: Error) -> Error {
    if code(&error) != Some(NOT_NOW) {
        return error;
    }
    let why = "PostgreSQL can't do it now: somebody else is doing it, or the server is in recovery";
    Error::new(ErrorKind::Unreachable, error.operation(), why).caused_by(error)
}

/// Why no connection under another role was made.
fn can_not_act(error: Error, owner: &str) -> Error {
    let why = match code(&error) {
        Some("42501" | "22023") => {
            "this user can't take the role that prepared the branch, and nobody else may end it but a superuser: \
             `grant` that role to this user; or let a superuser end the branch"
        }
        Some("08P01") => {
            "the connection under the role that prepared the branch was refused, as a pooler does that can't \
             pass a role on: give PostgreSQL's own address as the participant's url, or that role as its user"
        }
        _ => return error.with("role", owner),
    };
    Error::new(ErrorKind::Configuration, END, why).with("role", owner).caused_by(error)
}
