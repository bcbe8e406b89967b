//! Delivers messages of which one can't be delivered, when nobody says which: fewer and fewer are
//! under way at a time, until the one that fails is alone. A transaction in which a message failed
//! can only be given up, so each try begins anew, with another producer; none of them becomes visible.

use std::ops::Range;

use super::writer::{End, Sent, ShardWriter};
use crate::delivery::{Blame, Fault};
use crate::error::{Error, ErrorKind, Result};
use crate::message::StoredMessage;

/// Messages that begin a narrowed delivery under way together: a chunk.
const GROUP_MAX: usize = 256;

/// How many messages may be under way at a time. It grows again with each success: where a whole
/// batch is too large and none of its messages is, a smaller number goes on.
pub(super) struct Group(usize);

impl Default for Group {
    fn default() -> Self {
        Group(GROUP_MAX)
    }
}

/// How often a delivery is tried: each try but the last sets a message or a topic aside, or halves the
/// group at least.
fn tries_max(messages: &[StoredMessage]) -> usize {
    2 * messages.len() + 16
}

/// Delivers what can be delivered of `messages`, in their order, in one transaction. `again` says that
/// they were set aside before; what can't be delivered of such is returned and not recorded yet.
pub(super) fn deliver(
    writer: &mut ShardWriter,
    group: &mut Group,
    messages: &[StoredMessage],
    end: &mut End,
    again: bool,
) -> Result<Sent> {
    let mut tries = 0;
    loop {
        let mut under_way = 0..0;
        let error = match attempt(writer, group, messages, end, again, &mut under_way) {
            Ok(sent) => {
                group.0 = (group.0 * 2).min(GROUP_MAX);
                return Ok(sent);
            }
            Err(error) => error,
        };
        tries += 1;
        let blame = blame(writer, &error);
        if tries == tries_max(messages) || blame == Blame::Nobody {
            return Err(error);
        }
        writer.renew()?;
        match blame {
            Blame::Nobody => return Err(error),
            Blame::These(faults) => accuse(writer, messages, faults, error)?,
            Blame::Somebody { .. } if under_way.is_empty() => return Err(error),
            Blame::Somebody { of_topic, reason } if under_way.len() == 1 => {
                let culprit = &messages[under_way.start];
                let topic = culprit.message.topic().to_string();
                let fault = match of_topic {
                    true => Fault::Topic { topic, reason },
                    false => Fault::Message { message_id: culprit.message_id, reason },
                };
                writer.asides.fault(culprit, fault)?;
            }
            Blame::Somebody { .. } => group.0 = (under_way.len() / 4).max(1),
        }
    }
}

/// Whose fault an error is. Nothing is narrowed down once another relay has taken over, or where the
/// outcome is not known.
pub(super) fn blame(writer: &ShardWriter, error: &Error) -> Blame {
    match error.kind() {
        ErrorKind::Fenced | ErrorKind::Unclear => Blame::Nobody,
        _ => writer.taken.delivery.blame(),
    }
}

/// Judges those who are named. Where none of them is among `messages`, it is somebody else's failure:
/// that of the progress record, for example.
pub(super) fn accuse(
    writer: &mut ShardWriter,
    messages: &[StoredMessage],
    faults: Vec<Fault>,
    error: Error,
) -> Result<()> {
    let mut found = false;
    for fault in faults {
        let is_meant = |stored: &&StoredMessage| match &fault {
            Fault::Message { message_id, .. } => stored.message_id == *message_id,
            Fault::Topic { topic, .. } => stored.message.topic() == topic,
        };
        if let Some(culprit) = messages.iter().find(is_meant) {
            found = true;
            writer.asides.fault(culprit, fault)?;
        }
    }
    if found { Ok(()) } else { Err(error) }
}

fn attempt(
    writer: &mut ShardWriter,
    group: &Group,
    messages: &[StoredMessage],
    end: &mut End,
    again: bool,
    under_way: &mut Range<usize>,
) -> Result<Sent> {
    let discarded = end.cleared.len();
    let tried = try_once(writer, group, messages, end, again, under_way);
    if tried.is_err() {
        end.cleared.truncate(discarded);
    }
    tried
}

fn try_once(
    writer: &mut ShardWriter,
    group: &Group,
    messages: &[StoredMessage],
    end: &mut End,
    again: bool,
    under_way: &mut Range<usize>,
) -> Result<Sent> {
    writer.begin()?;
    let mut sent = Sent::default();
    let mut at = 0;
    while at < messages.len() {
        *under_way = at..(at + group.0).min(messages.len());
        let part = &messages[under_way.clone()];
        let before = sent.messages;
        writer.send(part, again, &mut sent)?;
        if sent.messages > before {
            writer.taken.delivery.flush()?;
        }
        at = under_way.end;
    }
    *under_way = 0..0;
    let mut asides = Vec::new();
    if again {
        end.cleared.append(&mut sent.again);
        if end.cleared.is_empty() {
            writer.abort();
            return Ok(sent);
        }
        // They are recorded already: what changes is only why.
        std::mem::swap(&mut asides, &mut sent.asides);
    }
    writer.commit(end, &sent)?;
    sent.asides.append(&mut asides);
    Ok(sent)
}
