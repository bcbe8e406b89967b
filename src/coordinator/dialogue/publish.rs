//! Publishing inside a transaction, and which of its participants is its home.

use super::Dialogue;
use super::messages::refuse;
use crate::error::Result;
use crate::id::{MessageId, ParticipantName};
use crate::message::Message;

impl Dialogue {
    /// Publishes a message, if the transaction commits. It is kept here until then. `outbox` names the
    /// participant that it waits in; it is needed where several of the transaction's have an outbox, and
    /// the same for all of its messages.
    pub fn publish(&mut self, message: Message, outbox: Option<&ParticipantName>) -> Result<MessageId> {
        if self.machine.step().is_some() {
            return Err(refuse("the transaction is over: publish inside of it"));
        }
        let topic = message.topic().to_string();
        let id = MessageId::of_transaction((self.scope.new_id)());
        let kept = self.find_home(outbox).and_then(|home| self.messages.keep(id, message, home));
        kept.map_err(|error| error.with("topic", topic)).map(|()| id)
    }

    fn find_home(&self, outbox: Option<&ParticipantName>) -> Result<usize> {
        let places = (0..self.branches.len()).filter(|place| self.branches[*place].member.outbox.is_some());
        let places: Vec<usize> = places.collect();
        let name = |place: &usize| &self.branches[*place].member.name;
        match (outbox, &places[..]) {
            (Some(wanted), _) => {
                places.iter().copied().find(|place| name(place) == wanted).ok_or_else(|| {
                    refuse("this participant has no outbox, or no branch in the transaction")
                        .with("outbox", wanted)
                })
            }
            (None, [only]) => Ok(*only),
            (None, []) => {
                let why = "no participant of this transaction has an outbox: set `outbox = true` for one of them, \
                           or take in one that has it";
                Err(refuse(why))
            }
            (None, several) => {
                let names: Vec<&str> = several.iter().map(|place| name(place).as_str()).collect();
                let why =
                    "several participants of this transaction have an outbox: say in which the messages wait";
                Err(refuse(why).with("outboxes", names.join(", ")))
            }
        }
    }
}
