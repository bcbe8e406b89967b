//! What has to be so at the end of a run, once all servers are up again and nothing goes wrong any more.

use onecommit::id::TransactionId;

use super::sim::Inner;
use crate::world::{Told, Whose, World, Wrong};

/// What is not at its end, one line each. Where a history was lost something may wait for a person.
pub fn unsettled(inner: &Inner) -> Vec<String> {
    let world = &inner.world;
    let mut found = Vec::new();
    for (place, database) in world.databases.iter().enumerate() {
        let ours = database.prepared().filter(|branch| branch.whose == Whose::Ours);
        let waits = ours.filter(|_| !may_wait(world, place));
        found.extend(waits.map(|branch| format!("{} is prepared in {place}", branch.transaction)));
    }
    for (id, known) in world.log.all() {
        let mut touched: Vec<usize> = known.record.participants.keys().map(World::place).collect();
        if known.record.is_orphan {
            touched = (0..world.databases.len()).collect();
        }
        if touched.into_iter().any(|place| may_wait(world, place)) {
            continue;
        }
        if !known.batches.is_empty() {
            found.push(format!("{id} has {} batches", known.batches.len()));
        }
        if known.live.is_none() || known.fence > 0 {
            found.push(format!("{id} is dead, and has a record"));
        }
    }
    found
}

fn may_wait(world: &World, place: usize) -> bool {
    world.databases[place].has_lost_history || world.log.was_restored
}

/// Judges every transaction.
pub fn judge(inner: &mut Inner) {
    let ids: Vec<TransactionId> = inner.meant.keys().copied().collect();
    let mut wrong = Vec::new();
    for id in ids {
        wrong.extend(judge_one(inner, id));
    }
    let outcomes: Vec<_> = inner.world.log.outcomes().collect();
    for (id, outcome) in outcomes {
        if !inner.world.truth.is_so(id, outcome) {
            wrong.push((Wrong::Untrue, format!("the outcome {outcome:?} of {id} is kept")));
        }
    }
    for (kind, what) in wrong {
        inner.world.truth.wrong(kind, what);
    }
}

fn judge_one(inner: &Inner, id: TransactionId) -> Vec<(Wrong, String)> {
    let (world, meant) = (&inner.world, &inner.meant[&id]);
    let mut wrong = Vec::new();
    let is_one_phase = meant.writes.len() == 1;
    let is_decided = world.truth.decided.contains(&id);
    let is_in_doubt = world.truth.told.get(&id) == Some(&Told::InDoubt) && !is_one_phase;
    // While there is a record, that tells it.
    let is_kept = world.log.outcome(id).is_some() || world.log.find(id.coordinator).is_some();
    // Where each failover took the PREPARE with it, nobody who comes later can know of the transaction.
    let is_found = meant.writes.iter().any(|place| !world.databases[*place].has_lost_history);
    if is_in_doubt && !is_kept && is_found && !world.log.was_restored && unsettled(inner).is_empty() {
        wrong.push((Wrong::ForEverInDoubt, format!("the outcome of {id} is not kept")));
    }
    for (place, database) in world.databases.iter().enumerate() {
        let committed = database.committed(id);
        if let Some(messages) = committed {
            let expected = meant.messages.filter(|(home, _)| *home == place).map_or(0, |(_, count)| count);
            if messages != expected {
                wrong.push((
                    Wrong::Messages,
                    format!("{id} has {messages} messages in {place}, not {expected}"),
                ));
            }
        }
        let is_wanted = meant.writes.contains(&place);
        let may_lack = database.has_lost_history || world.log.was_restored;
        if is_decided && is_wanted && committed.is_none() && !may_lack {
            wrong.push((Wrong::Torn, format!("{id} was decided, and is not committed in {place}")));
        }
        if committed.is_some() && !is_decided && !is_one_phase {
            wrong.push((Wrong::Torn, format!("{id} was not decided, and is committed in {place}")));
        }
        let is_told = world.truth.told.get(&id) == Some(&Told::Committed);
        if is_told && is_wanted && committed.is_none() && !may_lack {
            wrong.push((Wrong::Untrue, format!("{id} is told as committed, and {place} lacks it")));
        }
    }
    wrong
}
