//! Publishing inside a transaction that the caller owns.

use rusqlite::{Transaction, params};

use crate::error::Result;
use crate::id::MessageId;
use crate::message::Message;
use crate::sqlite::failure::from_sqlite;
use crate::sqlite::headers::encode;

/// Writes a message: its id (16 bytes), topic, key, value, partition, headers.
pub(crate) const INSERT: &str = "insert into onecommit_outbox \
     (message_id, topic, key, value, partition, headers) values (?1, ?2, ?3, ?4, ?5, ?6)";

/// Publishes one message through the caller's own transaction: it is delivered if that commits,
/// and never if it doesn't. Messages arrive in the order of commits, and within one in the order
/// of publishing.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use onecommit::{Message, outbox::sqlite};
///
/// # let directory = tempfile::tempdir()?;
/// # let mut connection = rusqlite::Connection::open(directory.path().join("shop.db"))?;
/// # connection.execute_batch(&sqlite::print_sql(0))?;
/// # connection.execute_batch("create table orders (id integer primary key, total integer)")?;
/// let transaction = connection.transaction()?;
/// transaction.execute("insert into orders (total) values (100)", ())?;
/// sqlite::publish(&transaction, &Message::new("order.paid", "42", r#"{"total": 100}"#)?)?;
/// transaction.commit()?;
/// # Ok(()) }
/// ```
pub fn publish(transaction: &Transaction<'_>, message: &Message) -> Result<MessageId> {
    let failed = |error| from_sqlite("publish", error).with("topic", message.topic());
    let id = MessageId::random();
    let mut insert = transaction.prepare_cached(INSERT).map_err(failed)?;
    let (key, value) = (message.key(), message.value());
    let (id_bytes, headers) = (id.0.as_bytes().as_slice(), encode(message.headers()));
    let row = params![id_bytes, message.topic(), key, value, message.partition(), headers];
    insert.execute(row).map_err(failed)?;
    Ok(id)
}

/// Publishes several messages, in their order.
pub fn publish_many(transaction: &Transaction<'_>, messages: &[Message]) -> Result<Vec<MessageId>> {
    messages.iter().map(|message| publish(transaction, message)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn without_the_tables_it_says_what_to_run() {
        let mut connection = rusqlite::Connection::open_in_memory().unwrap();
        let transaction = connection.transaction().unwrap();
        let error = publish(&transaction, &Message::new("t", "k", "v").unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains("onecommit init"), "{error}");
    }
}
