"""Bugs in how a transaction over several databases is decided, kept and recovered."""

from __future__ import annotations

from .bug import Bug, Edit, e2e, rust, unit

BATCH = "src/protocol/batch.rs"
FATE = "src/protocol/fate.rs"
INIT = "src/service/init.rs"
HISTORY = "src/protocol/history.rs"
LEGACY = "src/coordinator/legacy.rs"
RECOVER = "src/coordinator/recover.rs"
RETENTION = "src/protocol/retention.rs"
TRANSACTION = "src/protocol/transaction/mod.rs"
TWO_PHASE = "src/protocol/transaction/two_phase.rs"
WORK = "src/coordinator/dialogue/work.rs"

TOLD = unit("protocol::batch::tests::what_is_told_is_true")
TRUE = unit("protocol::transaction::tests::what_is_told_is_true_and_all_happens_or_nothing")
BETWEEN = unit("protocol::history::tests::the_row_stays_between_the_records_marks")
LOST = unit("protocol::history::tests::a_history_that_was_lost_is_never_settled")
COVERED = unit("protocol::retention::tests::a_batch_goes_once_marks_cover_all_of_its_commits")
ORPHANS = rust(
    "coordinator::recovery::"
    "of_branches_without_a_record_only_those_behind_their_coordinators_end_are_rolled_back"
)
UNHEARD = rust("coordinator::crash::every_step_of_ending_an_orphan_with_the_log_in_zookeeper")
HANDED_ON = rust(
    "coordinator::crash::what_was_rolled_back_is_kept_in_a_file_though_its_recoverer_dies"
)
EMPTIED = e2e(
    "test_refusals.py::test_a_zookeeper_emptied_while_branches_are_prepared_is_not_prepared_anew"
)
DECIDED = rust(
    "coordinator::recovery::decided_transactions_of_the_dead_are_committed_with_the_log_in_a_file"
)
CUT_OFF = rust(
    "coordinator::endings::"
    "a_deadline_in_the_middle_of_a_registration_is_no_alarm_for_the_next_transaction"
)
BY_HAND = "coordinator::by_hand::"
FORGOTTEN = rust(f"{BY_HAND}a_forgotten_participants_decisions_are_kept_with_the_log_in_a_file")

BUGS = [
    Bug(
        "removed-coordinator-looks-torn",
        "Who looks at a coordinator that is removed meanwhile finds nothing, and no damage.",
        rust("decision_log_zookeeper::zookeeper_conforms"),
        "the folder of this coordinator's decisions is gone",
        [
            Edit(
                "src/decision_log/zookeeper/nodes.rs",
                "now.is_none_or(|now| now.is_orphan != record.is_orphan)",
                "now.is_some_and(|now| now.is_orphan != record.is_orphan)",
            )
        ],
    ),
    Bug(
        "member-sure-of-itself-while-cut-off",
        "Who has no connection is told that it may be no member, before others are told so.",
        rust("groups::who_loses_the_session_is_told_first_that_it_may_be_gone_and_then_that_it_is"),
        "spoilt 5 times",
        [Edit("src/group/zookeeper.rs", "if waited {", "if waited || seen.is_current {")],
    ),
    Bug(
        "registration-cut-off-goes-on",
        "A coordinator whose registration a deadline cuts off ends: a second insert of its row "
        "would look like a recoverer's.",
        CUT_OFF,
        "another node has settled it",
        [Edit("src/coordinator/registration.rs", "        self.0.end();\n", "")],
    ),
    Bug(
        "settings-stored-unchecked",
        "What is set at run time is checked, as the file would be, before it is stored.",
        e2e("test_settings.py::test_what_could_not_be_in_the_file_is_not_stored[file]"),
        "'relay.batch_messages', '0'",
        [Edit("src/service/settings.rs", "    config.with(&wanted)?;\n", "")],
    ),
    Bug(
        "settings-overwritten-unseen",
        "Settings take the place of those only that were seen.",
        rust("settings::a_file_conforms"),
        "called `Result::unwrap_err()` on an `Ok` value",
        [
            Edit(
                "src/settings/file.rs",
                "if stored(&transaction, OPERATION).map_err(named)?.revision != seen {",
                "if stored(&transaction, OPERATION).map_err(named)?.revision > seen + 9 {",
            )
        ],
    ),
    Bug(
        "rights-of-the-topmost-node-only",
        "Every node that anybody may change is refused, and not the topmost alone.",
        rust("access_zookeeper::one_node_that_anybody_may_change_is_enough_to_refuse"),
        "called `Result::unwrap_err()` on an `Ok` value",
        [
            Edit(
                "src/zookeeper/access.rs",
                "all.extend(below(connection, paths.root()).await?);",
                "let _ = below;",
            )
        ],
    ),
    Bug(
        "outcome-dies-with-its-recoverer",
        "What is to be rolled back is kept before it is: its recoverer may die in the middle.",
        HANDED_ON,
        "right: Some(RolledBack)",
        [
            Edit(
                LEGACY,
                "session.keep_outcomes(fence, &outcomes).await?;",
                "let _ = (session, outcomes);",
            )
        ],
    ),
    Bug(
        "emptied-zookeeper-prepared-anew",
        "A ZooKeeper that knows nothing of branches that are prepared is not prepared anew.",
        EMPTIED,
        "assert 0 == 4",
        [
            Edit(
                INIT,
                "None => expect_nothing_prepared(OPERATION, config, known).await?,",
                "None => {}",
            )
        ],
    ),
    Bug(
        "fenced-behind-a-lost-answer",
        "Once an answer was lost, a failed fence check no longer says that nothing was decided.",
        TOLD,
        "Test failed",
        [
            Edit(
                BATCH,
                "let certainly_not = answer == Answer::Fenced && !is_doubtful;",
                "let certainly_not = answer == Answer::Fenced;",
            )
        ],
    ),
    Bug(
        "batch-of-others-is-ours",
        "A batch that is there already is one's own only where an answer to it was lost.",
        unit("protocol::batch::tests::a_batch_that_somebody_else_made_is_not_taken_for_its_own"),
        "left: Decided([1])",
        [Edit(BATCH, "Answer::Exists if is_doubtful =>", "Answer::Exists =>")],
    ),
    Bug(
        "decided-without-every-vote",
        "A PREPARE without an answer is no vote.",
        TRUE,
        "decided without every vote",
        [
            Edit(
                TWO_PHASE,
                "Vote::Unknown => Some(Why::Branch(*branch, BranchWhy::Lost)),",
                "Vote::Unknown => None,",
            )
        ],
    ),
    Bug(
        "readers-ended-first",
        "A branch that wrote nothing ends behind the decision: it may hold a lock of it.",
        TRUE,
        "ended before the decision",
        [
            Edit(
                TRANSACTION,
                "=> Turn::To(Ending::OnePhase(OnePhase::Committing(writer))),",
                "=> Turn::Release { commits: true, then: "
                "Box::new(Turn::To(Ending::OnePhase(OnePhase::Committing(writer)))) },",
            )
        ],
    ),
    Bug(
        "interrupted-is-rolled-back",
        "Who stops waiting for a decision that was sent does not know what came of it.",
        unit(
            "protocol::transaction::tests::"
            "who_stops_waiting_for_a_decision_that_was_sent_is_in_doubt"
        ),
        "InDoubt",
        [
            Edit(
                TWO_PHASE,
                "Event::Interrupted) => Turn::Tell(Told::InDoubt(Why::Interrupted)),",
                "Event::Interrupted) => Turn::Tell(Told::RolledBack(Why::Interrupted)),",
            )
        ],
    ),
    Bug(
        "prepare-behind-the-promotion",
        "A number is believed on a later timeline only where the promotion was behind its PREPARE.",
        unit(
            "protocol::fate::tests::a_number_is_believed_on_a_later_timeline_that_has_its_prepare"
        ),
        "the PREPARE is not there",
        [Edit(FATE, "self.position <= switch.position)", "switch.position > 0)")],
    ),
    Bug(
        "number-of-any-life",
        "What a server says of a number counts only in the life in which it was given.",
        rust("coordinator::one_phase::a_number_that_a_crash_hands_to_a_stranger_proves_nothing"),
        "called `Result::unwrap_err()` on an `Ok` value",
        [
            Edit(
                WORK,
                "Ok((answered, Fate::Committed)) if answered == *instance => return",
                "Ok((_, Fate::Committed)) => return",
            )
        ],
    ),
    Bug(
        "mark-without-announcement",
        "A mark is in the record before it is in the row.",
        BETWEEN,
        "Test failed",
        [
            Edit(
                HISTORY,
                "        let mark = self.recorded.announced;\n",
                "        let mark = self.recorded.announced + 1;\n",
            )
        ],
    ),
    Bug(
        "lost-history-settled",
        "Nothing is rolled back where a participant lacks a mark that it has acknowledged.",
        LOST,
        "ParticipantLost",
        [Edit(HISTORY, "if mark < self.acknowledged {", "if false {")],
    ),
    Bug(
        "restored-record-settled",
        "Nothing is rolled back where a participant has a mark that the record does not announce.",
        LOST,
        "RecordLost",
        [Edit(HISTORY, "if mark > self.announced && rolls_back {", "if false {")],
    ),
    Bug(
        "batch-deleted-uncovered",
        "A batch goes only once a newer mark was acknowledged by every participant of it.",
        COVERED,
        "one commit is not covered",
        [
            Edit(
                RETENTION,
                "kept.covering.iter().all(|(participant, mark)| is_covered(participant, *mark))",
                "kept.covering.iter().any(|(participant, mark)| is_covered(participant, *mark))",
            )
        ],
    ),
    Bug(
        "orphans-rolled-back",
        "A branch without a record is rolled back only behind its coordinator's closed row.",
        ORPHANS,
        "the late one is rolled back",
        [Edit(LEGACY, "if recovery::judge_orphans(row) == OrphanRule::Refuse {", "if false {")],
    ),
    Bug(
        "takeover-unheard-of",
        "What was taken over without an answer is given up, or nobody could settle it.",
        UNHEARD,
        "every branch is settled",
        [
            Edit(
                RECOVER,
                "session.let_go(id).await?;\n            self.unclear",
                "self.unclear",
            )
        ],
    ),
    Bug(
        "decided-is-rolled-back",
        "What is decided is committed by whoever recovers.",
        DECIDED,
        "left: [100, 100]",
        [
            Edit(
                LEGACY,
                "if commit.contains(&number(branch)) { End::Commit }",
                "if false { End::Commit }",
            )
        ],
    ),
    Bug(
        "alive-is-resolved",
        "Nothing is done by hand for a coordinator that lives.",
        rust(f"{BY_HAND}the_living_and_those_that_others_recover_are_left_to_them"),
        "called `Result::unwrap_err()` on an `Ok` value",
        [
            Edit(
                "src/coordinator/caretaker.rs",
                "CoordinatorState::Dead | CoordinatorState::Orphan => return Ok(()),",
                "_ => return Ok(()),",
            )
        ],
    ),
    Bug(
        "whole-is-forgotten",
        "A participant that recovery settles by itself is not given up.",
        rust(f"{BY_HAND}what_recovery_settles_by_itself_is_not_forgotten"),
        "left: (1, [])",
        [
            Edit(
                "src/coordinator/forget.rs",
                "Ok(()) => Ok(None),",
                "Ok(()) => Ok(Some(String::new())),",
            )
        ],
    ),
    Bug(
        "decision-goes-with-its-record",
        "What was decided is kept as an outcome when a record is ended.",
        FORGOTTEN,
        "left: None",
        [
            Edit(
                "src/coordinator/held.rs",
                "let all = decisions.chain(rolled_back);",
                "let all = decisions.filter(|_| false).chain(rolled_back);",
            )
        ],
    ),
    Bug(
        "outcome-carried-out-otherwise",
        "A branch that comes back is ended as its outcome says.",
        FORGOTTEN,
        "left: (0, [90, 100])",
        [
            Edit(
                "src/coordinator/resolve.rs",
                "Outcome::Committed => End::Commit,",
                "Outcome::Committed => End::RollBack,",
            )
        ],
    ),
    Bug(
        "late-branch-waits",
        "A late branch in a settled participant does not wait until another one is settled.",
        rust(
            "coordinator::recovery::"
            "a_late_branch_is_rolled_back_while_another_participant_waits_for_a_person"
        ),
        "it is rolled back, but it never came",
        [
            Edit(
                "src/coordinator/held.rs",
                "        self.end_late(scope, members, session).await?;\n",
                "        let _ = Held::end_late;\n",
            )
        ],
    ),
    Bug(
        "cleaning-ends-with-the-first-failure",
        "What is old is forgotten in each participant, also where another one is away.",
        rust(
            "coordinator::recovery::what_is_old_is_forgotten_also_where_another_participant_is_away"
        ),
        "it is forgotten, but it never came",
        [
            Edit(
                RECOVER,
                'failed.extend(forgotten.err().map(|error| error.with("participant", name)));',
                'failed.extend(forgotten.err().map(|error| error.with("participant", name)));\n'
                "if !failed.is_empty() { break; }",
            )
        ],
    ),
    Bug(
        "registers-beside-itself",
        "An attempt to register that nobody waits for is taken up, and none made beside it.",
        rust("coordinator::mistakes::a_decision_log_that_another_process_keeps_locked_is_told"),
        "somebody else is alive for this coordinator",
        [
            Edit(
                "src/coordinator/identity.rs",
                "*registering = Registering::UnderWay(self.scope.runtime.spawn(attempt));",
                "return attempt.await;",
            )
        ],
    ),
]
