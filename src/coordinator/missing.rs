//! A decided branch that is not there: committed before, not prepared yet, or lost.

use crate::error::Result;
use crate::participant::{Instance, Participant};
use crate::protocol::fate::{self, Fate, Meaning, Prepared};

/// What a database says of it.
pub(super) struct Found {
    pub(super) instance: Instance,
    pub(super) fate: Fate,
    pub(super) meaning: Meaning,
}

/// Asks the database. Behind a promotion that is `Refused` where it can't be told; who asks again, once a
/// person has mended that, gets the answer.
pub(super) async fn look(port: &dyn Participant, xid: u64, then: &Prepared) -> Result<Found> {
    let (instance, fate) = port.fate(xid).await?;
    let mut left = Vec::new();
    if fate == Fate::Committed && then.is_on_another_timeline(&instance.database) {
        let (answering, timelines) = port.timelines().await?;
        if answering != instance {
            return Ok(Found { instance, fate, meaning: Meaning::NotYet });
        }
        left = timelines;
    }
    let meaning = fate::judge(fate, then, &instance.database, &left);
    Ok(Found { instance, fate, meaning })
}
