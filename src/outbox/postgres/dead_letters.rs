//! Dead letters as the people see them who run a relay: lists, and what they ask the shards' owners
//! to do. Nothing here is fenced: a request is only a wish, and the owner fulfils it.

use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::connection::Connection;
use super::rows::get;
use super::set_aside;
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::{MessageId, ShardIndex};
use crate::message::StoredMessage;
use crate::outbox::{AsideCounts, DeadLetter, HeldTopic, Request, Selection};
use crate::postgres::connect::Parameter;

pub(super) async fn list(
    connection: &Connection,
    selection: &Selection,
    limit: u32,
) -> Result<Vec<DeadLetter>> {
    let schema = &connection.schema;
    let sql = format!(
        "select a.shard, a.message_id, a.topic, o.key, a.reason, a.request,
           (extract(epoch from a.set_aside_at) * 1000)::bigint,
           (select count(*) from {schema}.set_aside w
              where w.shard = a.shard and w.parked_key = a.parked_key and w.reason is null)
         from {schema}.set_aside a left join {schema}.outbox o on o.id = a.id
         where a.reason is not null and {CHOSEN} order by a.id limit {limit}"
    );
    let chosen = Chosen::of(selection);
    let rows = connection.query("list dead letters", &sql, &chosen.parameters()).await?;
    rows.iter().map(decode).collect()
}

fn decode(row: &Row) -> Result<DeadLetter> {
    let request = get::<Option<String>>(row, 5)?;
    Ok(DeadLetter {
        shard: ShardIndex(u16::try_from(get::<i32>(row, 0)?).unwrap_or(u16::MAX)),
        message_id: MessageId(get(row, 1)?),
        topic: get(row, 2)?,
        key: get(row, 3)?,
        reason: get(row, 4)?,
        request: request.map(|text| if text == "retry" { Request::Retry } else { Request::Discard }),
        set_aside_at_ms: get(row, 6)?,
        waiting: u64::try_from(get::<i64>(row, 7)?).unwrap_or(0),
    })
}

pub(super) async fn message(connection: &Connection, message_id: MessageId) -> Result<Option<StoredMessage>> {
    const OPERATION: &str = "read dead letter";
    let sql = format!("select id from {}.set_aside where message_id = $1", connection.schema);
    let parameters: [Parameter<'_>; 1] = [(&message_id.0, Type::UUID)];
    let found = connection.query(OPERATION, &sql, &parameters).await?;
    let Some(row) = found.first() else { return Ok(None) };
    let id: i64 = get(row, 0)?;
    let (mut messages, _) = set_aside::read(connection, OPERATION, &[id]).await?;
    Ok(messages.remove(&id))
}

pub(super) async fn ask(connection: &Connection, selection: &Selection, request: Request) -> Result<u64> {
    const OPERATION: &str = "ask for dead letters";
    let request = match request {
        Request::Retry => "retry",
        Request::Discard => "discard",
    };
    let schema = &connection.schema;
    let sql = format!(
        "update {schema}.set_aside a set request = '{request}' where a.reason is not null and {CHOSEN}"
    );
    let chosen = Chosen::of(selection);
    let parameters = chosen.parameters();
    failpoint!("outbox.ask.before_commit")?;
    let written = connection.client.execute_typed(&sql, &parameters);
    let begin = format!("begin; {}", connection.limits());
    let asked = connection.alone(OPERATION, &begin, written).await?;
    failpoint!("outbox.ask.after_commit")?;
    Ok(asked)
}

pub(super) async fn declare_topic(connection: &Connection, topic: &str, dead: bool) -> Result<bool> {
    const OPERATION: &str = "declare topic dead";
    let schema = &connection.schema;
    let sql = match dead {
        true => format!("insert into {schema}.dead_topic (topic) values ($1) on conflict do nothing"),
        false => format!("delete from {schema}.dead_topic where topic = $1"),
    };
    let parameters: [Parameter<'_>; 1] = [(&topic, Type::TEXT)];
    failpoint!("outbox.declare_topic.before_commit")?;
    let written = connection.client.execute_typed(&sql, &parameters);
    let begin = format!("begin; {}", connection.limits());
    let changed = connection.alone(OPERATION, &begin, written).await?;
    failpoint!("outbox.declare_topic.after_commit")?;
    Ok(changed == 1)
}

pub(super) async fn count(connection: &Connection, shard: ShardIndex) -> Result<AsideCounts> {
    const OPERATION: &str = "count dead letters";
    let schema = &connection.schema;
    let number = i32::from(shard.0);
    let parameters: [Parameter<'_>; 1] = [(&number, Type::INT4)];
    let sql = format!(
        "select count(*) filter (where reason is not null), count(*) filter (where reason is null)
         from {schema}.set_aside where shard = $1"
    );
    let rows = connection.query(OPERATION, &sql, &parameters).await?;
    let row = rows.first().ok_or_else(|| Error::new(ErrorKind::Failed, OPERATION, "no answer"))?;
    let unsigned = |index| Ok::<_, Error>(u64::try_from(get::<i64>(row, index)?).unwrap_or(0));
    let (dead_letters, waiting) = (unsigned(0)?, unsigned(1)?);
    let sql = format!("select topic, reason from {schema}.held_topic where shard = $1 order by topic");
    let held = connection.query(OPERATION, &sql, &parameters).await?;
    let held = held.iter().map(|row| Ok(HeldTopic { topic: get(row, 0)?, reason: get(row, 1)? }));
    Ok(AsideCounts { dead_letters, waiting, held: held.collect::<Result<_>>()? })
}

/// Which records of `a` are chosen, by [`Chosen::parameters`].
const CHOSEN: &str = "($1 is null or a.topic = $1) and ($2 is null or a.message_id = any($2))";

struct Chosen<'a> {
    topic: Option<&'a str>,
    messages: Option<Vec<Uuid>>,
}

impl<'a> Chosen<'a> {
    fn of(selection: &'a Selection) -> Self {
        match selection {
            Selection::All => Chosen { topic: None, messages: None },
            Selection::Topic(topic) => Chosen { topic: Some(topic), messages: None },
            Selection::Messages(ids) => {
                Chosen { topic: None, messages: Some(ids.iter().map(|id| id.0).collect()) }
            }
        }
    }

    fn parameters(&self) -> [Parameter<'_>; 2] {
        [(&self.topic, Type::TEXT), (&self.messages, Type::UUID_ARRAY)]
    }
}
