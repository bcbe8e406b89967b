//! Messages as SQL text, for connections that have any driver: the same rows as [`Outbox::publish_many`]
//! writes, in one statement without parameters.
//!
//! [`Outbox::publish_many`]: super::Outbox::publish_many

use crate::id::{MessageId, TransactionId};
use crate::message::Message;
use crate::postgres::{literal, quoted};

/// The statement that writes these messages, in their order, into the outbox of a schema. There is one at
/// least. Where `transaction` is not open any more, as somebody ended it inside, nothing is written: by itself
/// the statement would be a transaction of its own, and commit.
pub(crate) fn insert(schema: &str, transaction: TransactionId, messages: &[(MessageId, Message)]) -> String {
    let rows: Vec<String> = messages.iter().map(|(id, message)| row(*id, message)).collect();
    format!(
        "insert into {}.outbox (message_id, topic, key, value, partition, header_names, header_values)
         select * from (values {}) as message where current_setting('onecommit.tx', true) = {}",
        quoted(schema),
        rows.join(", "),
        literal(&transaction.to_string())
    )
}

fn row(id: MessageId, message: &Message) -> String {
    let headers = message.headers();
    let names: Vec<String> = headers.iter().map(|(name, _)| literal(name)).collect();
    let values: Vec<String> = headers.iter().map(|(_, value)| bytes(value.as_deref())).collect();
    let (names, values) = match headers.is_empty() {
        true => ("null::text[]".to_string(), "null::bytea[]".to_string()),
        false => (array(&names, "text"), array(&values, "bytea")),
    };
    let partition =
        message.partition().map_or_else(|| "null::int".to_string(), |partition| partition.to_string());
    let (topic, key, value) = (literal(message.topic()), bytes(message.key()), bytes(message.value()));
    format!("('{id}'::uuid, {topic}, {key}, {value}, {partition}, {names}, {values})")
}

fn array(items: &[String], kind: &str) -> String {
    format!("array[{}]::{kind}[]", items.join(","))
}

fn bytes(content: Option<&[u8]>) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let Some(content) = content else { return "null::bytea".to_string() };
    let mut text = String::with_capacity(2 * content.len() + 16);
    text.push_str("decode('");
    for byte in content {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text.push_str("','hex')");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::CoordinatorId;

    #[test]
    fn whatever_is_in_a_message_stays_a_value() {
        let headers = vec![("it's\\".to_string(), None), ("b".to_string(), Some(vec![0, 0xff]))];
        let message = Message::from_parts("t", None, Some(b"'\\".to_vec()), headers, Some(3)).unwrap();
        let id = MessageId(uuid::Uuid::nil());
        let transaction = TransactionId { coordinator: CoordinatorId(uuid::Uuid::nil()), number: 7 };
        let sql = insert("my \"schema", transaction, &[(id, message)]);
        let (_, values) = sql.split_once("(values ").unwrap();
        let (values, condition) = values.split_once(") as message where ").unwrap();
        let ours = "current_setting('onecommit.tx', true) = E'00000000-0000-0000-0000-000000000000:7'";
        assert_eq!(condition, ours);
        assert!(sql.starts_with(r#"insert into "my ""schema".outbox (message_id, "#), "{sql}");
        assert_eq!(
            values,
            "('00000000-0000-0000-0000-000000000000'::uuid, E't', null::bytea, decode('275c','hex'), 3, \
             array[E'it''s\\\\',E'b']::text[], array[null::bytea,decode('00ff','hex')]::bytea[])"
        );
    }
}
