//! Publishing inside a transaction that the caller owns.

use tokio_postgres::GenericClient;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::schema::DEFAULT_SCHEMA;
use crate::error::Result;
use crate::id::MessageId;
use crate::message::Message;
use crate::postgres::failure::from_postgres;
use crate::postgres::quoted;

/// The columns that a message fills, with their types.
const COLUMNS: [(&str, Type); 7] = [
    ("message_id", Type::UUID),
    ("topic", Type::TEXT),
    ("key", Type::BYTEA),
    ("value", Type::BYTEA),
    ("partition", Type::INT4),
    ("header_names", Type::TEXT_ARRAY),
    ("header_values", Type::BYTEA_ARRAY),
];
/// The most messages in one statement: PostgreSQL takes 65,535 parameters.
const STATEMENT_MESSAGES: usize = 500;
/// The most bytes of messages in one statement, unless a single one has more: they are held in
/// memory twice, here and by the server, which takes 1 GiB.
const STATEMENT_BYTES: usize = 8 * 1024 * 1024;

/// Publishes messages through the caller's own PostgreSQL transaction: they are delivered if it
/// commits, and never if it doesn't.
///
/// Messages of one key arrive in the order of insertion among transactions that excluded each
/// other *before* publishing: change the row first, then publish.
///
/// ```no_run
/// # async fn example(client: &mut tokio_postgres::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use onecommit::{Message, Outbox};
///
/// let outbox = Outbox::new();
/// let transaction = client.transaction().await?;
/// transaction.execute("update accounts set total = total - 100 where id = 42", &[]).await?;
/// outbox.publish(&transaction, &Message::new("account.changed", "42", r#"{"total": 100}"#)?).await?;
/// transaction.commit().await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Outbox {
    schema: String,
}

impl Default for Outbox {
    fn default() -> Self {
        Outbox::new()
    }
}

impl Outbox {
    /// The outbox in the schema `onecommit`. It holds no connection and may be shared.
    pub fn new() -> Self {
        Outbox::in_schema(DEFAULT_SCHEMA)
    }

    /// The outbox in another schema.
    pub fn in_schema(schema: &str) -> Self {
        Outbox { schema: quoted(schema) }
    }

    /// Writes one message; one round trip. Call it inside a transaction: on a plain client the
    /// message is committed at once. Fails as the caller's own statement would, and then the
    /// transaction can only be rolled back.
    pub async fn publish<C: GenericClient>(&self, client: &C, message: &Message) -> Result<MessageId> {
        let row = Row::new(message);
        let inserted = self.insert(client, std::slice::from_ref(&row)).await;
        inserted.map_err(|error| error.with("topic", message.topic()))?;
        Ok(MessageId(row.id))
    }

    /// Writes several messages, in their order; one round trip for each 500 of them, or 8 MiB.
    pub async fn publish_many<C: GenericClient>(
        &self,
        client: &C,
        messages: &[Message],
    ) -> Result<Vec<MessageId>> {
        let mut ids = Vec::with_capacity(messages.len());
        let mut rest = messages;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(statement_len(rest));
            let rows: Vec<Row<'_>> = now.iter().map(Row::new).collect();
            self.insert(client, &rows).await.map_err(|error| error.with("messages", rows.len()))?;
            ids.extend(rows.iter().map(|row| MessageId(row.id)));
            rest = later;
        }
        Ok(ids)
    }

    /// PostgreSQL draws the ids of a list of values in the list's order.
    async fn insert<C: GenericClient>(&self, client: &C, rows: &[Row<'_>]) -> Result<()> {
        let names = COLUMNS.map(|(name, _)| name).join(", ");
        let row = |first: usize| {
            let numbers: Vec<String> = (first..first + COLUMNS.len()).map(|n| format!("${n}")).collect();
            format!("({})", numbers.join(", "))
        };
        let values: Vec<String> = (0..rows.len()).map(|index| row(index * COLUMNS.len() + 1)).collect();
        let sql = format!("insert into {}.outbox ({names}) values {}", self.schema, values.join(", "));
        let parameters: Vec<(&(dyn ToSql + Sync), Type)> = rows.iter().flat_map(Row::parameters).collect();
        let inserted = client.execute_typed(&sql, &parameters).await;
        inserted.map(drop).map_err(|error| from_postgres("publish", error))
    }
}

/// How many of the messages go into one statement; at least one.
fn statement_len(messages: &[Message]) -> usize {
    let mut bytes = 0;
    let fits = |message: &&Message| {
        bytes += message.size();
        bytes <= STATEMENT_BYTES
    };
    messages.iter().take(STATEMENT_MESSAGES).take_while(fits).count().max(1)
}

/// A message as the driver takes it.
struct Row<'a> {
    id: Uuid,
    topic: &'a str,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    partition: Option<i32>,
    header_names: Option<Vec<&'a str>>,
    header_values: Option<Vec<Option<&'a [u8]>>>,
}

impl<'a> Row<'a> {
    fn new(message: &'a Message) -> Self {
        let headers = (!message.headers().is_empty()).then(|| message.headers());
        Row {
            id: MessageId::random().0,
            topic: message.topic(),
            key: message.key(),
            value: message.value(),
            partition: message.partition(),
            header_names: headers.map(|all| all.iter().map(|(name, _)| name.as_str()).collect()),
            header_values: headers.map(|all| all.iter().map(|(_, value)| value.as_deref()).collect()),
        }
    }

    /// In the order of [`COLUMNS`].
    fn parameters(&self) -> impl Iterator<Item = (&(dyn ToSql + Sync), Type)> {
        let values: [&(dyn ToSql + Sync); COLUMNS.len()] = [
            &self.id,
            &self.topic,
            &self.key,
            &self.value,
            &self.partition,
            &self.header_names,
            &self.header_values,
        ];
        values.into_iter().zip(COLUMNS.map(|(_, kind)| kind))
    }
}
