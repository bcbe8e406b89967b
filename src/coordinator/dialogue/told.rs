//! What the caller is told, and why.

use super::{COMMIT, Dialogue, Finished};
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::transaction::{BranchWhy, Told, Why};

impl Dialogue {
    pub(super) fn tell(&mut self, told: Told) -> Result<Option<Finished>> {
        // At once, and not only when the caller lets go of it.
        self.settle_rest();
        let (kind, why) = match told {
            Told::Committed { is_applied } => {
                return Ok(Some(Finished { id: self.id, protocol: self.machine.protocol(), is_applied }));
            }
            Told::RolledBack(Why::Wanted) => return Ok(None),
            Told::RolledBack(why) => (None, why),
            Told::InDoubt(why) => (Some(ErrorKind::InDoubt), why),
        };
        let cause = self.cause.take();
        let (own_kind, text) = reason(why);
        // Whatever is not clear of a part of it: that all is rolled back is.
        let cause_kind = cause.as_ref().map(Error::kind).filter(|kind| *kind != ErrorKind::Unclear);
        let kind = kind.or(cause_kind).unwrap_or(own_kind);
        let ended = if kind == ErrorKind::InDoubt {
            "it is not known whether it is committed"
        } else {
            "rolled back"
        };
        let mut error = Error::new(kind, COMMIT, format!("{ended}: {text}")).with("transaction", self.id);
        if let Why::Branch(branch, _) = why {
            error = error.with("participant", &self.branches[branch].member.name);
        }
        Err(match cause {
            Some(cause) => error.caused_by(cause),
            None => error,
        })
    }
}

/// The kind where nothing else says more, and the reason in words.
fn reason(why: Why) -> (ErrorKind, &'static str) {
    match why {
        Why::Wanted => (ErrorKind::Failed, "as the caller wanted"),
        Why::Interrupted => {
            (ErrorKind::Unreachable, "it was interrupted, or took longer than its deadline allows")
        }
        Why::NotRegistered => (ErrorKind::Unreachable, "nothing could be decided"),
        Why::Fenced => (ErrorKind::Fenced, "this coordinator has ended: run the transaction again"),
        Why::Unclear => (ErrorKind::InDoubt, "the decision log gave no clear answer"),
        Why::Branch(_, why) => branch_reason(why),
    }
}

fn branch_reason(why: BranchWhy) -> (ErrorKind, &'static str) {
    match why {
        BranchWhy::EndedElsewhere => (
            ErrorKind::Invalid,
            "the branch was committed or rolled back inside: leave that to the transaction (no commit() or \
             rollback() on its connections, no COMMIT in its SQL). What was committed there stays",
        ),
        BranchWhy::Failed => {
            (ErrorKind::Failed, "a statement of this branch failed, and its error was not passed on")
        }
        BranchWhy::Unfinishable => (
            ErrorKind::Configuration,
            "the branch runs under a role that recovery could not take: grant it to the user in the participant's url",
        ),
        BranchWhy::Lost => (ErrorKind::Unreachable, "the connection was lost"),
        BranchWhy::NotPrepared => (ErrorKind::Failed, "the branch could not be prepared"),
        BranchWhy::NotCommitted => (ErrorKind::Failed, "the branch could not be committed"),
        BranchWhy::NotProved => (
            ErrorKind::InDoubt,
            "the connection was lost while the branch was committed, and its database can't tell any more",
        ),
    }
}
