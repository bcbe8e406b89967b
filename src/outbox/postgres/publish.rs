//! Publishing inside a transaction that the caller owns.

use tokio_postgres::GenericClient;
use tokio_postgres::types::Type;

use super::failure::from_postgres;
use super::schema::{DEFAULT_SCHEMA, quoted};
use crate::error::Result;
use crate::id::MessageId;
use crate::message::Message;

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
    insert: String,
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
        let columns = "message_id, topic, key, value, partition, header_names, header_values";
        let insert =
            format!("insert into {}.outbox ({columns}) values ($1, $2, $3, $4, $5, $6, $7)", quoted(schema));
        Outbox { insert }
    }

    /// Writes one message; one round trip. Call it inside a transaction: on a plain client the
    /// message is committed at once. Fails as the caller's own statement would, and then the
    /// transaction can only be rolled back.
    pub async fn publish<C: GenericClient>(&self, client: &C, message: &Message) -> Result<MessageId> {
        let id = MessageId::random();
        let headers = message.headers();
        let names: Option<Vec<&str>> =
            (!headers.is_empty()).then(|| headers.iter().map(|(name, _)| name.as_str()).collect());
        let values: Option<Vec<Option<&[u8]>>> =
            (!headers.is_empty()).then(|| headers.iter().map(|(_, value)| value.as_deref()).collect());
        let inserted = client
            .execute_typed(
                &self.insert,
                &[
                    (&id.0, Type::UUID),
                    (&message.topic(), Type::TEXT),
                    (&message.key(), Type::BYTEA),
                    (&message.value(), Type::BYTEA),
                    (&message.partition(), Type::INT4),
                    (&names, Type::TEXT_ARRAY),
                    (&values, Type::BYTEA_ARRAY),
                ],
            )
            .await;
        inserted.map_err(|error| from_postgres("publish", error).with("topic", message.topic()))?;
        Ok(id)
    }

    /// Writes several messages, in their order; they are pipelined, so that it takes about one
    /// round trip.
    pub async fn publish_many<C: GenericClient>(
        &self,
        client: &C,
        messages: &[Message],
    ) -> Result<Vec<MessageId>> {
        let mut ids = Vec::with_capacity(messages.len());
        for message in messages {
            ids.push(self.publish(client, message).await?);
        }
        Ok(ids)
    }
}
