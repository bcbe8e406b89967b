//! A message as the application publishes it, and as the relay finds it in an outbox. What is
//! valid is decided here, once, for Rust and Python alike.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::id::MessageId;

/// The header that carries the [`MessageId`]; the prefix `onecommit-` is reserved.
pub const ID_HEADER: &str = "onecommit-id";
const RESERVED_PREFIX: &str = "onecommit-";

/// Kafka's limit for the length of a topic's name.
pub const TOPIC_MAX_LEN: usize = 249;
/// More headers than this are refused: a consumer of a usual record has a handful.
pub const HEADERS_MAX: usize = 1_000;
/// Key, value and headers together. PostgreSQL can't hold more than 1 GiB in a field, and Kafka
/// takes 1 MB by default.
pub const MESSAGE_MAX_BYTES: usize = 256 * 1024 * 1024;

/// One header: a name, and a value that may be null.
pub type Header = (String, Option<Vec<u8>>);

/// A message to publish.
///
/// ```
/// use onecommit::Message;
///
/// let message = Message::new("order.paid", b"42", br#"{"total": 100}"#)?.header("source", b"web")?;
/// assert_eq!(message.topic(), "order.paid");
/// assert!(Message::new("no spaces", b"42", b"").is_err());
/// # Ok::<(), onecommit::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    topic: Arc<str>,
    key: Option<Bytes>,
    value: Option<Bytes>,
    headers: Vec<Header>,
    partition: Option<i32>,
}

impl Message {
    /// A message with a key and a value. An empty key is a key; see [`Message::from_parts`] for a
    /// message without one, and for a tombstone.
    pub fn new(topic: &str, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Self> {
        let (key, value) = (key.as_ref().to_vec(), value.as_ref().to_vec());
        Message::from_parts(topic, Some(key), Some(value), Vec::new(), None)
    }

    /// A message from all of its parts: `key` None has no key, `value` None is a tombstone,
    /// `partition` None lets the key decide. Fails with `Invalid` where Kafka could never take it.
    pub fn from_parts(
        topic: &str,
        key: Option<Vec<u8>>,
        value: Option<Vec<u8>>,
        headers: Vec<Header>,
        partition: Option<i32>,
    ) -> Result<Self> {
        check_topic("publish", topic)?;
        check_headers(&headers).map_err(|error| error.with("topic", topic))?;
        if partition.is_some_and(|number| number < 0) {
            return Err(refuse("a partition's number is 0 or more").with("topic", topic));
        }
        let (key, value) = (key.map(Bytes::from), value.map(Bytes::from));
        let message = Message { topic: topic.into(), key, value, headers, partition };
        check_size(&message)?;
        Ok(message)
    }

    /// A message as it was found in a store: what an outbox holds is not refused but delivered, or
    /// reported by the delivery. Messages that were read together share their memory.
    #[allow(dead_code, reason = "the bare crate has no backend that reads")]
    pub(crate) fn stored(
        topic: impl Into<Arc<str>>,
        key: Option<Bytes>,
        value: Option<Bytes>,
        headers: Vec<Header>,
        partition: Option<i32>,
    ) -> Self {
        Message { topic: topic.into(), key, value, headers, partition }
    }

    /// The same message with one more header; names may repeat, their order is kept.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Result<Self> {
        self.headers.push((name.to_string(), Some(value.as_ref().to_vec())));
        check_headers(&self.headers).map_err(|error| error.with("topic", &self.topic))?;
        check_size(&self)?;
        Ok(self)
    }

    /// The Kafka topic it goes to.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The key; None where there is none.
    pub fn key(&self) -> Option<&[u8]> {
        self.key.as_deref()
    }

    /// The value; None for a tombstone.
    pub fn value(&self) -> Option<&[u8]> {
        self.value.as_deref()
    }

    /// The value as it is shared: whoever keeps it keeps its memory.
    #[allow(dead_code, reason = "the bare crate delivers nothing")]
    pub(crate) fn shared_value(&self) -> Option<&Bytes> {
        self.value.as_ref()
    }

    /// The headers, in order.
    pub fn headers(&self) -> &[Header] {
        &self.headers
    }

    /// The partition asked for by name, if any.
    pub fn partition(&self) -> Option<i32> {
        self.partition
    }

    /// Bytes of key, value and headers.
    pub fn size(&self) -> usize {
        let bytes = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len);
        let headers = self.headers.iter().map(|(name, value)| name.len() + bytes(value.as_deref()));
        bytes(self.key()) + bytes(self.value()) + headers.sum::<usize>()
    }
}

/// A message found in an outbox, with what the outbox knows about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMessage {
    /// Its place in the outbox: ascending within a window.
    pub id: i64,
    /// The id that its consumers see.
    pub message_id: MessageId,
    /// Same for all messages of one transaction; keyless ones go to one partition by it.
    pub transaction: u64,
    /// When it was published, in milliseconds since 1970 (UTC).
    pub created_at_ms: i64,
    /// What was published.
    pub message: Message,
}

fn refuse(why: impl Into<String>) -> Error {
    Error::invalid("publish", why)
}

/// Fails with `Invalid` where no Kafka topic can have this name.
pub(crate) fn check_topic(operation: &'static str, topic: &str) -> Result<()> {
    let Some(why) = illegal_topic(topic) else { return Ok(()) };
    let shown: String = topic.chars().take(60).collect();
    Err(Error::invalid(operation, why).with("topic", format!("{shown:?}")))
}

/// Why no Kafka topic can have this name; None where one can.
pub(crate) fn illegal_topic(topic: &str) -> Option<String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if topic.is_empty() {
        Some("the topic's name is empty: name the Kafka topic".to_string())
    } else if topic.len() > TOPIC_MAX_LEN {
        Some(format!("the topic's name has {} characters, Kafka takes {TOPIC_MAX_LEN}", topic.len()))
    } else if topic == "." || topic == ".." {
        Some("a topic can't be named . or ..".to_string())
    } else {
        let wrong = topic.chars().find(|c| !legal(*c))?;
        Some(format!("a topic's name has only letters, digits, . _ and -, not {wrong:?}"))
    }
}

fn check_size(message: &Message) -> Result<()> {
    if message.size() > MESSAGE_MAX_BYTES {
        let why = format!(
            "key, value and headers have more than {MESSAGE_MAX_BYTES} bytes: keep the content elsewhere, \
             and publish where it is"
        );
        return Err(refuse(why).with("topic", &message.topic).with("bytes", message.size()));
    }
    Ok(())
}

fn check_headers(headers: &[Header]) -> Result<()> {
    if headers.len() > HEADERS_MAX {
        let why = format!(
            "{} headers, at most {HEADERS_MAX} are taken: put the rest into the value",
            headers.len()
        );
        return Err(refuse(why));
    }
    for (name, _) in headers {
        if name.to_ascii_lowercase().starts_with(RESERVED_PREFIX) {
            let why =
                format!("headers that start with {RESERVED_PREFIX} are Onecommit's own: choose another name");
            return Err(refuse(why).with("header", format!("{name:?}")));
        }
        if name.is_empty() || name.contains('\0') {
            let why = "a header's name is not empty and has no NUL character";
            return Err(refuse(why).with("header", format!("{name:?}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kafka_could_never_take_is_refused_by_name() {
        let long = "x".repeat(250);
        for topic in ["", ".", "..", "a b", "a/b", "ä", "a\0b", long.as_str()] {
            let error = Message::new(topic, b"k", b"v").unwrap_err();
            assert_eq!(error.operation(), "publish", "{topic:?}");
        }
        let message = Message::new("t", b"k", b"v").unwrap();
        assert!(message.clone().header("Onecommit-id", b"x").is_err());
        assert!(message.clone().header("", b"x").is_err());
        assert!(message.header("a\0b", b"x").is_err());
        let many = vec![("a".to_string(), None); HEADERS_MAX + 1];
        assert!(Message::from_parts("t", None, None, many, None).is_err());
        assert!(Message::from_parts("t", None, None, Vec::new(), Some(-1)).is_err());
    }

    #[test]
    fn repeated_headers_null_values_and_empty_keys_are_kept() {
        let headers = vec![("a".to_string(), None), ("a".to_string(), Some(vec![0]))];
        let message = Message::from_parts("t", Some(vec![]), None, headers.clone(), Some(3)).unwrap();
        assert_eq!(message.headers(), headers);
        assert_eq!(message.key(), Some(&b""[..]));
        assert_eq!((message.value(), message.partition(), message.size()), (None, Some(3), 3));
    }
}
