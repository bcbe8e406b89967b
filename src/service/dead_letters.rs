//! Dead letters, for the people who run a relay: what they see of them, and how they have the shards'
//! owners retry or discard them.

use std::time::{Duration, Instant};

use super::build;
use crate::config::{Config, Participant};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{MessageId, ParticipantName};
use crate::message::StoredMessage;
use crate::outbox::{DeadLetter, Outbox, Request, Selection};

/// How often it is looked whether the shards' owners have done what was asked for.
const LOOK: Duration = Duration::from_millis(200);

/// Of which participant, or of all with an outbox.
pub type Of<'a> = Option<&'a ParticipantName>;

/// A dead letter and whose it is.
pub type Owned = (ParticipantName, DeadLetter);

/// What became of a request.
#[derive(Debug, Default)]
pub struct Answer {
    /// Delivered, or discarded.
    pub done: Vec<Owned>,
    /// Still not to be delivered, each with why.
    pub failed: Vec<Owned>,
    /// Not done yet: a relay does it as soon as one owns the shard.
    pub pending: Vec<Owned>,
}

/// Dead letters, the oldest of each participant first, at most `limit` of each.
pub async fn dead_letters(
    config: &Config,
    of: Of<'_>,
    selection: &Selection,
    limit: u32,
) -> Result<Vec<Owned>> {
    let mut all = Vec::new();
    for (name, participant) in chosen(config, of)? {
        let found = connect(config, name, participant).await?.dead_letters(selection, limit).await;
        let found = found.map_err(|error| error.with("participant", name))?;
        all.extend(found.into_iter().map(|letter| (name.clone(), letter)));
    }
    Ok(all)
}

/// One dead letter with its message; the message is None where somebody has deleted its row by hand.
pub async fn dead_letter(
    config: &Config,
    message_id: MessageId,
) -> Result<Option<(Owned, Option<StoredMessage>)>> {
    for (name, participant) in chosen(config, None)? {
        let mut outbox = connect(config, name, participant).await?;
        let selection = Selection::Messages(vec![message_id]);
        let Some(letter) = outbox.dead_letters(&selection, 1).await?.pop() else { continue };
        let message = outbox.message_set_aside(message_id).await?;
        // A relay may have delivered or discarded it since, with its row.
        if message.is_none() && outbox.dead_letters(&selection, 1).await?.is_empty() {
            continue;
        }
        return Ok(Some(((name.clone(), letter), message)));
    }
    Ok(None)
}

/// Asks the shards' owners to retry or discard `letters`, and waits at most `limit` until they have.
pub async fn ask(config: &Config, letters: Vec<Owned>, request: Request, limit: Duration) -> Result<Answer> {
    let mut answer = Answer::default();
    let began = Instant::now();
    for (name, participant) in chosen(config, None)? {
        let of_this = |owned: &&Owned| owned.0 == *name;
        let mut open: Vec<DeadLetter> =
            letters.iter().filter(of_this).map(|(_, letter)| letter.clone()).collect();
        if open.is_empty() {
            continue;
        }
        let mut outbox = connect(config, name, participant).await?;
        outbox.ask(&Selection::Messages(ids(&open)), request).await?;
        loop {
            let found = outbox.dead_letters(&Selection::Messages(ids(&open)), u32::MAX).await?;
            let mut pending = Vec::new();
            for letter in open {
                let now = found.iter().find(|found| found.message_id == letter.message_id);
                match now {
                    None => answer.done.push((name.clone(), letter)),
                    Some(now) if now.request.is_none() => answer.failed.push((name.clone(), now.clone())),
                    Some(now) => pending.push(now.clone()),
                }
            }
            open = pending;
            if open.is_empty() || began.elapsed() >= limit {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        answer.pending.extend(open.into_iter().map(|letter| (name.clone(), letter)));
    }
    Ok(answer)
}

/// Declares a topic dead for the chosen participants, or takes that back; returns those for whom that
/// changed something.
pub async fn declare_topic(
    config: &Config,
    of: Of<'_>,
    topic: &str,
    dead: bool,
) -> Result<Vec<ParticipantName>> {
    let mut changed = Vec::new();
    for (name, participant) in chosen(config, of)? {
        if connect(config, name, participant).await?.declare_topic(topic, dead).await? {
            changed.push(name.clone());
        }
    }
    Ok(changed)
}

fn ids(letters: &[DeadLetter]) -> Vec<MessageId> {
    letters.iter().map(|letter| letter.message_id).collect()
}

fn chosen<'a>(config: &'a Config, of: Of<'_>) -> Result<Vec<(&'a ParticipantName, &'a Participant)>> {
    let mut found = build::outboxes(config)?;
    if let Some(wanted) = of {
        found.retain(|(name, _)| *name == wanted);
        if found.is_empty() {
            let why = "there is no participant of this name with an outbox";
            return Err(
                Error::new(ErrorKind::Configuration, "choose participant", why).with("participant", wanted)
            );
        }
    }
    Ok(found)
}

async fn connect(
    config: &Config,
    name: &ParticipantName,
    participant: &Participant,
) -> Result<Box<dyn Outbox>> {
    let connected = build::source(config, participant).connect().await;
    connected.map_err(|error| error.with("participant", name))
}
