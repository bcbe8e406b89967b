"""Bugs in the protocol of transactions over several databases, each found by the model of the world
around it: in every order of events of a small world, or in whole nodes that run at random."""

from __future__ import annotations

from .bug import Bug, Edit, model

BATCH = "src/protocol/batch.rs"
FATE = "src/protocol/fate.rs"
HISTORY = "src/protocol/history.rs"
ONE_PHASE = "src/protocol/transaction/one_phase.rs"
RECOVERY = "src/protocol/recovery.rs"
RETENTION = "src/protocol/retention.rs"
TRANSACTION = "src/protocol/transaction/mod.rs"
TWO_PHASE = "src/protocol/transaction/two_phase.rs"
DIALOGUE = "src/coordinator/dialogue/mod.rs"
IDENTITY = "src/coordinator/identity.rs"
LEGACY = "src/coordinator/legacy.rs"
RECOVER = "src/coordinator/recover.rs"
STAGE = "src/outbox/postgres/stage.rs"
WORK = "src/coordinator/dialogue/work.rs"

AT_RANDOM = model("simulation::whatever_befalls_the_world_nothing_is_torn_told_wrong_or_forgotten")
LOST_COMMITS = model("simulation::numbers_of_lost_commits_are_given_to_strangers")
SESSIONS = model("exhaustive::processes_and_sessions_end_in_every_order")
CALLERS = model("exhaustive::callers_give_up_in_every_order")
SERVERS = model("exhaustive::servers_crash_and_lose_history_in_every_order")
LOG = model("exhaustive::a_copy_of_the_log_takes_its_place_in_every_order")

BUGS = [
    Bug(
        "model-lost-vote-counts",
        "A PREPARE without an answer is no vote.",
        SESSIONS,
        "no vote for it",
        [
            Edit(
                TWO_PHASE,
                "Vote::Unknown => Some(Why::Branch(*branch, BranchWhy::Lost)),",
                "Vote::Unknown => None,",
            )
        ],
    ),
    Bug(
        "model-failed-vote-counts",
        "A PREPARE on a failed transaction is answered, and prepares nothing.",
        AT_RANDOM,
        "Torn",
        [
            Edit(
                TWO_PHASE,
                "Vote::RolledBack => Some(Why::Branch(*branch, BranchWhy::NotPrepared)),",
                "Vote::RolledBack => None,",
            )
        ],
    ),
    Bug(
        "model-ended-inside-unnoticed",
        "A branch that somebody else has ended inside is noticed.",
        AT_RANDOM,
        "Untrue",
        [
            Edit(
                TRANSACTION,
                "Did::EndedElsewhere => Some(BranchWhy::EndedElsewhere),",
                "Did::EndedElsewhere => None,",
            )
        ],
    ),
    Bug(
        "model-interrupted-is-rolled-back",
        "Who stops waiting for a decision that was sent does not know what came of it.",
        CALLERS,
        "Untrue",
        [
            Edit(
                TWO_PHASE,
                "Event::Interrupted) => Turn::Tell(Told::InDoubt(Why::Interrupted)),",
                "Event::Interrupted) => Turn::Tell(Told::RolledBack(Why::Interrupted)),",
            )
        ],
    ),
    Bug(
        "model-unclear-is-rolled-back",
        "Where the decision log gave no clear answer nothing is told for certain.",
        SESSIONS,
        "Untrue",
        [Edit(TWO_PHASE, "Told::InDoubt(Why::Unclear))", "Told::RolledBack(Why::Unclear))")],
    ),
    Bug(
        "model-unproved-is-rolled-back",
        "A COMMIT without an answer may have taken effect.",
        AT_RANDOM,
        "Untrue",
        [
            Edit(
                ONE_PHASE,
                "Turn::end(false, Told::InDoubt(why(BranchWhy::NotProved)))",
                "Turn::end(false, Told::RolledBack(why(BranchWhy::NotProved)))",
            )
        ],
    ),
    Bug(
        "model-number-of-any-life",
        "What a server says of a number counts only in the life in which it was given.",
        LOST_COMMITS,
        "Untrue",
        [
            Edit(
                WORK,
                "Ok((answered, Fate::Committed)) if answered == *instance =>",
                "Ok((_, Fate::Committed)) =>",
            ),
        ],
    ),
    Bug(
        "model-lost-answer-is-no",
        "A request for decisions without an answer may have been done.",
        SESSIONS,
        "Untrue",
        [
            Edit(
                BATCH,
                "                under_way.is_doubtful = true;\n"
                "                return Meaning::Again;",
                "                under_way.is_doubtful = true;\n                let sent = "
                "under_way.request.entries.iter().map(|entry| entry.number).collect();\n"
                "                self.under_way = None;\n                self.is_fenced = true;\n"
                "                return Meaning::NotDecided(sent);",
            )
        ],
    ),
    Bug(
        "model-missing-batch-kept-in-request",
        "A batch that is not there any more is left out of the request: it fails as a whole.",
        AT_RANDOM,
        "ForEverInDoubt",
        [
            Edit(
                BATCH,
                "under_way.request.delete.retain(|other| *other != batch);",
                "under_way.request.delete.retain(|other| *other != batch || true);",
            )
        ],
    ),
    Bug(
        "model-batch-deleted-uncovered",
        "A batch goes only once a newer mark was acknowledged by every participant of it.",
        SERVERS,
        "ForgottenTooEarly",
        [
            Edit(
                RETENTION,
                "is_covered(participant, *mark))\n",
                "is_covered(participant, *mark) || true)\n",
            )
        ],
    ),
    Bug(
        "model-batch-deleted-unapplied",
        "A batch goes only once each of its branches is committed.",
        AT_RANDOM,
        "ForgottenTooEarly",
        [
            Edit(
                RETENTION,
                "            kept.unapplied.is_empty()\n                && ",
                "            ",
            )
        ],
    ),
    Bug(
        "model-not-applied-again",
        "What was committed in one instance is committed again in the next one.",
        SERVERS,
        "ForgottenTooEarly",
        [
            Edit(
                RETENTION,
                ".any(|branch| branch.participant == *participant) {",
                ".any(|branch| branch.participant == *participant) && false {",
            ),
            Edit(RETENTION, "kept.covering.remove(participant);", "let _ = &kept.covering;"),
        ],
    ),
    Bug(
        "model-lost-history-settled",
        "Nothing is rolled back where a participant lacks a mark that it has acknowledged.",
        SERVERS,
        "the outcome RolledBack",
        [Edit(HISTORY, "if mark < self.acknowledged {", "if mark < self.acknowledged && false {")],
    ),
    Bug(
        "model-restored-record-settled",
        "Nothing is rolled back where a participant has a mark that the record does not announce.",
        LOG,
        "the outcome RolledBack",
        [
            Edit(
                HISTORY,
                "if mark > self.announced && rolls_back {",
                "if mark > self.announced && rolls_back && false {",
            )
        ],
    ),
    Bug(
        "model-decided-by-an-old-mark",
        "Nothing is decided by a mark that was announced long ago.",
        LOG,
        "the outcome RolledBack",
        [
            Edit(
                HISTORY,
                "self.written > 0 && now.saturating_sub(self.written_announced) < FRESH_FOR",
                "let _ = now;\n        self.written > 0",
            )
        ],
    ),
    Bug(
        "model-orphans-rolled-back",
        "A branch without a record is rolled back only behind its coordinator's closed row.",
        LOG,
        "Torn",
        [
            Edit(
                RECOVERY,
                "Some(Row { is_closed: false, .. }) | None => OrphanRule::Refuse,",
                "Some(Row { is_closed: false, .. }) | None => OrphanRule::RollBack,",
            )
        ],
    ),
    Bug(
        "model-decided-is-rolled-back",
        "What is decided is committed by whoever recovers.",
        SESSIONS,
        "the outcome RolledBack",
        [
            Edit(RECOVERY, "commit: prepared & decided,", "commit: BTreeSet::new(),"),
            Edit(RECOVERY, "roll_back: prepared - decided,", "roll_back: prepared.clone(),"),
        ],
    ),
    Bug(
        "model-absent-not-asked",
        "A row is closed only once each decided branch that is not there is known to be committed.",
        SERVERS,
        "ForgottenTooEarly",
        [Edit(RECOVERY, "absent: decided - prepared }", "absent: BTreeSet::new() }")],
    ),
    Bug(
        "model-number-of-any-timeline",
        "A number is believed on a later timeline only where the promotion was behind its PREPARE.",
        SERVERS,
        "is called committed",
        [Edit(FATE, "self.position <= switch.position)", "switch.position > 0)")],
    ),
    Bug(
        "model-gone-is-rolled-back",
        "A PREPARE can land behind the ROLLBACK PREPARED that did not find it.",
        SESSIONS,
        "ForEverInDoubt",
        [Edit(FATE, "Fate::InProgress => Gone::NotYet,", "Fate::InProgress => Gone::RolledBack,")],
    ),
    Bug(
        "model-gone-is-committed",
        "A decided branch that is not there counts as committed only if its number is.",
        SERVERS,
        "is called committed",
        [
            Edit(
                FATE,
                "Fate::Committed | Fate::RolledBack | Fate::Unknown => Meaning::Lost,",
                "Fate::Committed | Fate::RolledBack | Fate::Unknown => Meaning::Committed,",
            )
        ],
    ),
    Bug(
        "model-row-left-open",
        "Whoever settles a participant closes its row: it tells late branches from a lost history.",
        AT_RANDOM,
        "ForEverInDoubt",
        [
            Edit(
                LEGACY,
                "    member.port.close_history(id, &examined.instance).await\n",
                "    let _ = (id, &examined.instance);\n    Ok(true)\n",
            )
        ],
    ),
    Bug(
        "model-takeover-unheard-of",
        "What was taken over without an answer is given up, or nobody could settle it.",
        AT_RANDOM,
        "ForEverInDoubt",
        [
            Edit(
                RECOVER,
                "            self.unclear.insert(id);\n            let legacy",
                "            let legacy",
            )
        ],
    ),
    Bug(
        "model-ended-coordinator-lives-on",
        "A coordinator that has ended is given up: it would count as living as its program does.",
        AT_RANDOM,
        "ForEverInDoubt",
        [Edit(IDENTITY, "    registration.let_go().await;\n", "")],
    ),
    Bug(
        "model-strangers-incarnation",
        "A branch of another incarnation is never touched.",
        AT_RANDOM,
        "StrangersBranch",
        [
            Edit(
                "src/protocol/branch.rs",
                "self.namespace == *namespace && self.incarnation == incarnation",
                "self.namespace == *namespace && (self.incarnation == incarnation || true)",
            )
        ],
    ),
    Bug(
        "model-strangers-participant",
        "A branch of a participant of another name in the same database is never touched.",
        AT_RANDOM,
        "StrangersBranch",
        [
            Edit(
                LEGACY,
                "        && name.participant == member.name\n",
                "        && (name.participant == member.name || true)\n",
            )
        ],
    ),
    Bug(
        "model-staged-outside",
        "Messages are written only in the transaction that was begun.",
        AT_RANDOM,
        "Messages",
        [
            Edit(
                STAGE,
                "as message where current_setting('onecommit.tx', true) = {}",
                "as message where {} > ''",
            )
        ],
    ),
    Bug(
        "model-begin-for-ever",
        "A BEGIN that is not answered by the deadline is not sent again.",
        AT_RANDOM,
        "a transaction does not end",
        [
            Edit(
                DIALOGUE,
                "        self.is_begun = true;\n        if let (Some(Step::Decide)",
                "        if let (Some(Step::Decide)",
            )
        ],
    ),
    Bug(
        "model-doubt-without-outcome",
        "Who was told that an outcome is not known can ask for it, also where it was an orphan's.",
        AT_RANDOM,
        "is not kept",
        [
            Edit(
                LEGACY,
                "    keep_rolled_back(session, fence, orphans.iter(), rolled_back).await?;\n",
                "    let _ = (session, rolled_back);\n",
            )
        ],
    ),
    Bug(
        "model-orphans-record-left",
        "An orphan's record is given up where nobody heard that it was removed.",
        AT_RANDOM,
        "is dead, and has a record",
        [
            Edit(
                RECOVER,
                "self.unclear.insert(id);\n                    self.tell(&error);\n",
                "self.tell(&error);\n",
            )
        ],
    ),
]
