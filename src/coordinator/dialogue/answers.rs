//! What the answers on the caller's connections mean.

use super::{Answer, BEGIN, Dialogue, OpenBranch};
use crate::error::{Error, ErrorKind, Result};
use crate::participant::postgres::branch::{self, Work};
use crate::protocol::transaction::{Committed, Did, Vote};

/// What PostgreSQL says of a BEGIN with a level of isolation, in a transaction that has begun to work.
const TRANSACTION_OPEN: &str = "25001";

impl Dialogue {
    pub(super) async fn begun(&mut self, answers: Vec<Answer>) -> Result<()> {
        for (branch, answer) in self.branches.iter_mut().zip(&answers) {
            branch.is_open = match answer {
                Ok(row) => branch::began(row).is_ok_and(|began| began.is_new),
                Err(failure) => failure.code.as_deref() != Some(TRANSACTION_OPEN),
            };
        }
        for (branch, answer) in self.branches.iter_mut().zip(answers) {
            let blamed = |error: Error| error.with("participant", &branch.member.name);
            let row = answer.map_err(|failure| blamed(failure.meaning(BEGIN)))?;
            let began = branch::began(&row).map_err(blamed)?;
            if !began.is_new {
                let why = "the connection has a transaction open already: end it before, or give another one";
                return Err(blamed(Error::new(ErrorKind::Invalid, BEGIN, why)));
            }
            if began.is_in_recovery {
                let why = "the connection leads to a standby, on which nothing can be written: give one to the primary";
                return Err(blamed(Error::new(ErrorKind::Unreachable, BEGIN, why)));
            }
            let Some(instance) = branch.member.begun_in(&began).await? else {
                let why = "the connection leads to another database than the participant's url, or to a server that \
                           is not its primary any more: give a connection to the participant's own database";
                let error = Error::new(ErrorKind::Refused, BEGIN, why);
                let found =
                    format!("database {} of a server that was started at {}", began.database, began.started);
                return Err(blamed(error.with("found", found)));
            };
            branch.instance = Some(instance);
        }
        for (place, branch) in self.branches.iter().enumerate() {
            let same = |other: &&OpenBranch| {
                let instances = other.instance.as_ref().zip(branch.instance.as_ref());
                instances.is_some_and(|(one, other)| one.database.is_same(&other.database))
            };
            if let Some(other) = self.branches[..place].iter().find(same) {
                let why = "two participants are one and the same database: a branch could wait for the other";
                let error = Error::new(ErrorKind::Configuration, BEGIN, why);
                return Err(error.with("participant", &branch.member.name).with("other", &other.member.name));
            }
        }
        Ok(())
    }

    pub(super) async fn asked(&mut self, answers: Vec<Answer>) -> Vec<Did> {
        let mut did = Vec::new();
        for (place, answer) in answers.into_iter().enumerate() {
            let found = match answer {
                Ok(row) => match branch::asked(self.id, &row) {
                    Ok(Work::Read) => Did::Read,
                    Ok(Work::EndedElsewhere) => Did::EndedElsewhere,
                    Ok(Work::Wrote { xid, role }) => {
                        self.branches[place].role = Some(role);
                        Did::Wrote { xid, is_finishable: true }
                    }
                    Err(error) => {
                        self.blame(Some(error));
                        Did::Failed
                    }
                },
                Err(failure) => {
                    let did = if failure.code.is_some() { Did::Failed } else { Did::Lost };
                    self.blame_branch(place, failure);
                    did
                }
            };
            did.push(found);
        }
        // Who ends by a COMMIT on its own connection needs nobody else's role.
        if did.iter().filter(|did| matches!(did, Did::Wrote { .. })).count() > 1 {
            let mut unasked = None;
            for (branch, did) in self.branches.iter().zip(&mut did) {
                if let (Did::Wrote { is_finishable, .. }, Some(role)) = (&mut *did, &branch.role) {
                    match branch.member.can_act_as(role).await {
                        Ok(can_act) => *is_finishable = can_act,
                        // No answer is not a missing right.
                        Err(error) => (*did, unasked) = (Did::Lost, Some(error)),
                    }
                }
            }
            self.blame(unasked);
        }
        did
    }

    pub(super) fn voted(&mut self, place: usize, answer: Answer) -> Vote {
        let vote = self.vote(place, answer);
        if let Vote::Prepared { lsn } = vote {
            self.branches[place].position = lsn;
        }
        vote
    }

    fn vote(&mut self, place: usize, answer: Answer) -> Vote {
        match answer {
            Ok(row) => branch::voted(&row).unwrap_or_else(|error| {
                self.blame(Some(error));
                Vote::Unknown
            }),
            Err(failure) => {
                let vote = if failure.is_final() { Vote::RolledBack } else { Vote::Unknown };
                self.blame_branch(place, failure);
                vote
            }
        }
    }

    pub(super) fn committed(&mut self, place: usize, answer: Answer) -> Committed {
        match answer {
            Ok(row) => branch::committed(&row).unwrap_or(Committed::Unknown),
            Err(failure) => {
                let came = if failure.is_final() { Committed::No } else { Committed::Unknown };
                self.blame_branch(place, failure);
                came
            }
        }
    }
}
