//! What the writers did, as the test knows it: every message with its contents, the transaction it
//! belongs to and its place in the order of its key; and the check of what was read against it.

use std::collections::HashMap;

use onecommit::id::ShardIndex;
use onecommit::message::StoredMessage;
use onecommit::protocol::slot::{shard_of, slot};
use uuid::Uuid;

/// A message's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    None,
    /// Nobody locks it, so no order is promised between transactions.
    Free(String),
    /// Locked before publishing: the number is its place in the key's order.
    Locked(usize, u64),
}

impl Key {
    pub fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            Key::None => None,
            Key::Free(name) => Some(name.clone().into_bytes()),
            Key::Locked(index, _) => Some(format!("locked-{index}").into_bytes()),
        }
    }
}

struct Written {
    key: Key,
    /// The value's length; None for NULL.
    length: Option<usize>,
    transaction: usize,
    /// Undone by a rollback to a savepoint.
    undone: bool,
}

/// Everything that was ever written.
#[derive(Default)]
pub struct Ledger {
    messages: Vec<Written>,
    renamed: HashMap<Uuid, usize>,
    committed: Vec<bool>,
}

/// The value of message `number`, as `lpad(number::text, length, 'x')` makes it.
pub fn value(number: usize, length: usize) -> Vec<u8> {
    let digits = number.to_string().into_bytes();
    [vec![b'x'; length - digits.len()], digits].concat()
}

impl Ledger {
    pub fn begin_transaction(&mut self) -> usize {
        self.committed.push(false);
        self.committed.len() - 1
    }

    pub fn commit(&mut self, transaction: usize) {
        self.committed[transaction] = true;
    }

    /// Adds a message; returns its number, which in hexadecimal is also its id.
    pub fn write(&mut self, transaction: usize, key: Key, length: Option<usize>) -> usize {
        self.messages.push(Written { key, length, transaction, undone: false });
        self.messages.len() - 1
    }

    /// A message got a random id.
    pub fn name(&mut self, number: usize, id: Uuid) {
        self.renamed.insert(id, number);
    }

    pub fn next_number(&self) -> usize {
        self.messages.len()
    }

    pub fn undo(&mut self, numbers: &[usize]) {
        for number in numbers {
            self.messages[*number].undone = true;
        }
    }

    fn is_committed(&self, message: &Written) -> bool {
        self.committed[message.transaction] && !message.undone
    }

    pub fn committed_messages(&self) -> usize {
        self.messages.iter().filter(|message| self.is_committed(message)).count()
    }

    /// A message that was read: its contents are the published ones. Returns its number.
    pub fn recognise(&self, shard: ShardIndex, shards: u16, row: &StoredMessage) -> usize {
        let id = row.message_id.0;
        let number = self.renamed.get(&id).copied().unwrap_or(id.as_u128() as usize);
        let written = self.messages.get(number).unwrap_or_else(|| panic!("{id} was never published"));
        let key = written.key.bytes();
        assert_eq!(row.message.key(), key.as_deref(), "key of message {number}");
        let expected = written.length.map(|length| value(number, length));
        assert!(row.message.value() == expected.as_deref(), "value of message {number}");
        let owner = shard_of(slot(key.as_deref(), row.transaction), shards);
        assert_eq!(owner, shard, "shard of message {number}");
        number
    }

    /// Whether the shards' deliveries together are exactly the committed messages, each once, in
    /// the order of its key and of its transaction.
    pub fn check(&self, deliveries: &[Vec<usize>]) {
        let mut times = vec![0_u32; self.messages.len()];
        for (shard, delivered) in deliveries.iter().enumerate() {
            let mut last_of_key: HashMap<usize, u64> = HashMap::new();
            let mut last_of_transaction: HashMap<usize, usize> = HashMap::new();
            for number in delivered {
                times[*number] += 1;
                let written = &self.messages[*number];
                let before = last_of_transaction.insert(written.transaction, *number);
                assert!(before < Some(*number), "shard {shard}: {number} came after {before:?}");
                if let Key::Locked(key, place) = written.key {
                    let before = last_of_key.insert(key, place);
                    assert!(before < Some(place), "key {key}: {place} came after {before:?}");
                }
            }
        }
        let wrong = |expected: bool, wanted: fn(u32) -> bool| -> Vec<usize> {
            let all = self.messages.iter().enumerate();
            let found = all
                .filter(|(number, message)| self.is_committed(message) == expected && wanted(times[*number]));
            found.map(|(number, _)| number).collect()
        };
        let lost = wrong(true, |times| times == 0);
        let repeated = wrong(true, |times| times > 1);
        let invented = wrong(false, |times| times > 0);
        let summary =
            format!("{} lost, {} repeated, {} not committed", lost.len(), repeated.len(), invented.len());
        let first = |numbers: &[usize]| numbers.iter().take(5).copied().collect::<Vec<_>>();
        let examples = (first(&lost), first(&repeated), first(&invented));
        assert!(lost.is_empty() && repeated.is_empty() && invented.is_empty(), "{summary}: {examples:?}");
    }
}
