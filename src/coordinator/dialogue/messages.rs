//! A transaction's messages, kept until its commit. They wait in the outbox of one of its participants, its
//! home.

use crate::error::{Error, ErrorKind, Result};
use crate::id::{MessageId, TransactionId};
use crate::message::{MESSAGE_MAX_BYTES, Message};
use crate::outbox::postgres::stage;

const OPERATION: &str = "publish";

/// The messages of one transaction, and where they wait.
#[derive(Default)]
pub(super) struct Messages {
    home: Option<usize>,
    waiting: Vec<(MessageId, Message)>,
    bytes: usize,
}

impl Messages {
    /// Keeps one more, which is to wait at `home`.
    pub(super) fn keep(&mut self, id: MessageId, message: Message, home: usize) -> Result<()> {
        if self.home.is_some_and(|chosen| chosen != home) {
            return Err(refuse("all messages of a transaction wait in the same outbox: name the same one"));
        }
        // They are sent in one statement, of which PostgreSQL takes 1 GiB.
        let bytes = self.bytes + message.size();
        if bytes > MESSAGE_MAX_BYTES {
            let why =
                format!("the messages of a transaction are larger than {MESSAGE_MAX_BYTES} bytes together");
            return Err(refuse(why).with("bytes", bytes));
        }
        (self.home, self.bytes) = (Some(home), bytes);
        self.waiting.push((id, message));
        Ok(())
    }

    /// Whether they wait at this branch.
    pub(super) fn wait_at(&self, place: usize) -> bool {
        self.home == Some(place)
    }

    /// One of those that wait at this branch.
    pub(super) fn one_at(&self, place: usize) -> Option<MessageId> {
        self.waiting.first().map(|(id, _)| *id).filter(|_| self.wait_at(place))
    }

    /// The statement that writes them there.
    pub(super) fn staging(&self, id: TransactionId, place: usize, schema: &str) -> Option<String> {
        self.wait_at(place).then(|| stage::insert(schema, id, &self.waiting))
    }
}

pub(super) fn refuse(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, OPERATION, why)
}
