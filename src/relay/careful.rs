//! Delivers messages of which one can't be delivered, when nobody says which: the messages go out in
//! parts, each waited for, and a part that fails is divided, until the one that fails is alone. A
//! transaction in which a message failed can only be given up, so each try begins anew, with another
//! producer; none of them becomes visible.

use std::ops::Range;

use super::writer::{End, Sent, ShardWriter};
use crate::delivery::{Blame, Fault};
use crate::error::{Error, ErrorKind, Result};
use crate::message::StoredMessage;

/// The largest part: a chunk.
const PART_MAX: usize = 256;
/// Into how many a part that fails is divided.
const DIVIDED_INTO: usize = 4;

/// How large parts are to begin with. It grows with each success, and shrinks where a batch is too
/// large as a whole and none of its messages is.
pub(super) struct PartSize(usize);

impl Default for PartSize {
    fn default() -> Self {
        PartSize(PART_MAX)
    }
}

/// The messages, part by part.
struct Parts {
    parts: Vec<Range<usize>>,
    divided: bool,
}

impl Parts {
    fn new(messages: usize, size: &PartSize) -> Self {
        let starts = (0..messages).step_by(size.0);
        let parts = starts.map(|start| start..(start + size.0).min(messages)).collect();
        Parts { parts, divided: false }
    }

    fn divide(&mut self, index: usize) {
        let part = self.parts[index].clone();
        let size = part.len().div_ceil(DIVIDED_INTO);
        let smaller = part.clone().step_by(size).map(|start| start..(start + size).min(part.end));
        self.parts.splice(index..=index, smaller);
        self.divided = true;
    }

    /// The size to begin with next time; `judged` says that a message was to blame.
    fn next_size(&self, size: &PartSize, judged: bool) -> PartSize {
        let smallest = self.parts.iter().map(Range::len).min().unwrap_or(size.0);
        match (self.divided, judged) {
            (false, _) => PartSize((size.0 * 2).min(PART_MAX)),
            (true, true) => PartSize(size.0),
            (true, false) => PartSize(smallest.max(1)),
        }
    }
}

/// How often a delivery is tried: each try but the last sets a message or a topic aside, or divides
/// a part.
fn tries_max(messages: &[StoredMessage]) -> usize {
    4 * messages.len() + 16
}

/// Delivers what can be delivered of `messages`, in their order, in one transaction. `again` says that
/// they were set aside before; what can't be delivered of such is returned and not recorded yet.
pub(super) fn deliver(
    writer: &mut ShardWriter,
    size: &mut PartSize,
    messages: &[StoredMessage],
    end: &mut End,
    again: bool,
) -> Result<Sent> {
    let mut parts = Parts::new(messages.len(), size);
    let (mut tries, mut judged) = (0, false);
    loop {
        let discarded = end.cleared.len();
        let mut under_way = None;
        let error = match attempt(writer, &parts, messages, end, again, &mut under_way) {
            Ok(sent) => {
                *size = parts.next_size(size, judged);
                return Ok(sent);
            }
            Err(error) => error,
        };
        end.cleared.truncate(discarded);
        tries += 1;
        let blame = blame(writer, &error);
        if tries == tries_max(messages) || blame == Blame::Nobody {
            return Err(error);
        }
        writer.renew()?;
        match (blame, under_way) {
            (Blame::These(faults), _) => {
                accuse(writer, messages, faults, error)?;
                judged = true;
            }
            (Blame::Somebody { of_topic, reason }, Some(index)) if parts.parts[index].len() == 1 => {
                let culprit = &messages[parts.parts[index].start];
                let topic = culprit.message.topic().to_string();
                let fault = match of_topic {
                    true => Fault::Topic { topic, reason },
                    false => Fault::Message { message_id: culprit.message_id, reason },
                };
                writer.asides.fault(culprit, fault)?;
                judged = true;
            }
            (Blame::Somebody { .. }, Some(index)) => parts.divide(index),
            (Blame::Somebody { .. } | Blame::Nobody, _) => return Err(error),
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
    parts: &Parts,
    messages: &[StoredMessage],
    end: &mut End,
    again: bool,
    under_way: &mut Option<usize>,
) -> Result<Sent> {
    writer.begin()?;
    let mut sent = Sent::default();
    for (index, part) in parts.parts.iter().enumerate() {
        *under_way = Some(index);
        let before = sent.messages;
        writer.send(&messages[part.clone()], again, &mut sent)?;
        if sent.messages > before {
            writer.taken.delivery.flush()?;
        }
    }
    *under_way = None;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_all_messages_in_order_however_they_are_divided() {
        let mut parts = Parts::new(600, &PartSize::default());
        assert_eq!(parts.parts, [0..256, 256..512, 512..600]);
        for index in [1, 2, 2, 0, 6] {
            parts.divide(index);
            let all: Vec<usize> = parts.parts.iter().cloned().flatten().collect();
            assert_eq!(all, (0..600).collect::<Vec<_>>());
        }
        let mut few = Parts::new(2, &PartSize::default());
        few.divide(0);
        assert_eq!(few.parts, [0..1, 1..2]);
    }

    #[test]
    fn the_size_shrinks_only_where_no_message_was_to_blame() {
        let size = PartSize(64);
        let mut parts = Parts::new(128, &size);
        assert_eq!(parts.next_size(&size, false).0, 128);
        parts.divide(0);
        assert_eq!(parts.next_size(&size, true).0, 64);
        assert_eq!(parts.next_size(&size, false).0, 16);
        assert_eq!(Parts::new(0, &size).next_size(&size, false).0, 128);
    }
}
