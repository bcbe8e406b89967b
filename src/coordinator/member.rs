//! One participant, as this node knows it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Result;
use crate::id::ParticipantName;
use crate::participant::postgres::branch::Began;
use crate::participant::{Instance, Participant};

/// A participant and what was learned of it. Nothing here is relied upon for longer than the server's
/// present life; whoever relies on it has the server check it.
pub struct Member {
    /// Its name.
    pub name: ParticipantName,
    /// Its database, over connections of our own.
    pub port: Arc<dyn Participant>,
    /// The schema of its outbox; None where no messages wait in it.
    pub outbox: Option<String>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    instance: Option<Instance>,
    roles: BTreeMap<String, bool>,
}

impl Member {
    /// One of which nothing is known yet.
    pub fn new(name: ParticipantName, port: Arc<dyn Participant>, outbox: Option<String>) -> Self {
        Member { name, port, outbox, seen: Mutex::default() }
    }

    /// The instance that was seen last, or the one that answers now where none was.
    pub(super) async fn instance(&self) -> Result<Instance> {
        if let Some(instance) = self.lock().instance.clone() {
            return Ok(instance);
        }
        self.look().await
    }

    /// The instance that answers now.
    pub(super) async fn look(&self) -> Result<Instance> {
        let instance = self.port.instance().await.map_err(|error| error.with("participant", &self.name))?;
        self.saw(&instance);
        Ok(instance)
    }

    pub(super) fn saw(&self, instance: &Instance) {
        self.lock().instance = Some(instance.clone());
    }

    /// The instance in which a branch has begun, where that is this very database, in the present life of
    /// its server. Only where it does not look so the database itself is asked anew.
    pub(super) async fn begun_in(&self, began: &Began) -> Result<Option<Instance>> {
        let is_same = |instance: &Instance| {
            instance.database.database == began.database && instance.started == began.started
        };
        let known = self.instance().await?;
        if is_same(&known) {
            return Ok(Some(known));
        }
        Ok(Some(self.look().await?).filter(is_same))
    }

    /// Whether this node may end what a role has prepared.
    pub(super) async fn can_act_as(&self, role: &str) -> Result<bool> {
        if let Some(known) = self.lock().roles.get(role) {
            return Ok(*known);
        }
        let answer =
            self.port.can_act_as(role).await.map_err(|error| error.with("participant", &self.name))?;
        // What is missing may be granted at any time.
        if answer {
            self.lock().roles.insert(role.to_string(), true);
        }
        Ok(answer)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
