"""Bugs in how a database takes part in transactions over several."""

from __future__ import annotations

from .bug import Bug, Edit, rust, unit

BRANCH = "src/participant/postgres/branch.rs"
HISTORY = "src/participant/postgres/history.rs"
PORT = "src/participant/postgres/port.rs"
CONFORMS = rust("participant_postgres::postgresql_conforms")
FLUSH = rust("participant_postgres::history::a_history_is_on_disk_before_it_is_confirmed")
FAILED_VOTE = rust("participant_postgres::branch::a_failed_transaction_votes_no")
ENDED_INSIDE = rust("participant_postgres::branch::a_transaction_that_was_ended_inside_is_noticed")
UNFLUSHED = rust(
    "participant_postgres::branch::a_commit_waits_for_its_flush_and_is_never_made_to_wait_for_less"
)
OWNER = rust("participant_postgres::roles::a_branch_of_another_role_is_ended_as_its_owner")
RECOVERER = rust("participant_postgres::history::a_mark_that_meets_a_recoverer_never_passes_it")

BUGS = [
    Bug(
        "mark-in-any-life",
        "A mark is written only in the server's life that is meant.",
        CONFORMS,
        "left: Some(Row { mark: 1, is_closed: false })",
        [Edit(HISTORY, "not r.closed and {IS_SAME} returning", "not r.closed returning")],
    ),
    Bug(
        "mark-in-a-closed-row",
        "A closed history row takes no mark: its coordinator has been settled.",
        CONFORMS,
        "left: Written",
        [Edit(HISTORY, "r.mark = any($8) and not r.closed and", "r.mark = any($8) and")],
    ),
    Bug(
        "mark-judged-by-an-old-row",
        "What a mark waited for may have changed the row: it is asked again, not told as it was.",
        RECOVERER,
        "called `Result::unwrap_err()` on an `Ok` value",
        [Edit(HISTORY, "Some(row) if !row.is_closed &&", "Some(row) if row.is_closed &&")],
    ),
    Bug(
        "row-closed-in-any-life",
        "A history row is closed only in the server's life that listed the branches.",
        CONFORMS,
        "!close(&other).await",
        [Edit(HISTORY, "from instance where {IS_SAME}", "from instance where true")],
    ),
    Bug(
        "history-unflushed",
        "A history row waits for its flush, whatever the login's setting.",
        FLUSH,
        "not flushed",
        [Edit(PORT, 'format!("begin; {DURABLE}; {}",', 'format!("begin; {}",')],
    ),
    Bug(
        "vote-by-its-answer",
        "A vote counts only while the transaction's number is in progress.",
        FAILED_VOTE,
        "left: Prepared",
        [Edit(BRANCH, "=> Vote::RolledBack,", "=> Vote::Prepared { lsn },")],
    ),
    Bug(
        "begin-mark-not-compared",
        "A transaction that was begun inside the block by somebody else is none of ours.",
        ENDED_INSIDE,
        "right: EndedElsewhere",
        [
            Edit(
                BRANCH,
                "if found.as_deref() != Some(&transaction.to_string()) {",
                "if found.is_none() || transaction.number == 0 {",
            )
        ],
    ),
    Bug(
        "commit-unflushed",
        "A branch's COMMIT waits for its flush where the session's setting would not.",
        UNFLUSHED,
        'left: "local"',
        [Edit(BRANCH, "in ('off', 'local') \\\n", "in ('off') \\\n")],
    ),
    Bug(
        "owner-not-taken",
        "What another role has prepared is ended as that role.",
        OWNER,
        "permission denied to finish prepared transaction",
        [Edit(PORT, "owner.filter(|owner| !taken.may_end_for(owner))", "owner.filter(|_| false)")],
    ),
    Bug(
        "wait-for-a-lock-unlimited",
        "Row locks crosswise in two databases are seen by neither: each wait has a limit.",
        unit("participant::postgres::branch::tests::a_wait_for_a_lock_is_always_limited"),
        "assertion failed: begin(Duration::ZERO)",
        [Edit(BRANCH, "'lock_timeout', '{ms}'", "'onecommit.ms', '{ms}'")],
    ),
    Bug(
        "role-that-nobody-can-take",
        "A branch is prepared only under a role that this node can take to end it.",
        rust(
            "coordinator::reproduced::"
            "a_role_that_we_can_not_take_is_refused_before_anything_is_prepared"
        ),
        "called `Result::unwrap_err()` on an `Ok` value",
        [
            Edit(
                "src/coordinator/dialogue/answers.rs",
                "Ok(can_act) => *is_finishable = can_act,",
                "Ok(_) => *is_finishable = true,",
            )
        ],
    ),
]
