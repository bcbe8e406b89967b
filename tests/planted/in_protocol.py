"""Bugs in the decisions that are made without any server: windows, floor, barriers, the sieve."""

from __future__ import annotations

from .bug import Bug, Edit, rust, unit

FLOOR = "src/protocol/floor.rs"
WINDOW = "src/protocol/window.rs"
VOUCHING = "src/protocol/vouching.rs"
RECOVERY = "src/protocol/recovery.rs"
SIEVE = "src/protocol/sieve.rs"
LATE_COMMIT = "read_path::plans::a_late_commit_is_not_searched_among_dead_rows"

BUGS = [
    Bug(
        "floor-of-any-barrier",
        "A sequence value is a floor only with a barrier whose number is below xmax of the window "
        "before: a running transaction at or above xmax is not in that snapshot's list.",
        unit("protocol::window::tests::every_committed_row_is_read_once"),
        "assertion `left == right` failed",
        [Edit(FLOOR, "*barrier_xid < prev.xmax()", "*barrier_xid > 0")],
    ),
    Bug(
        "floor-of-barrier-at-xmax",
        "A barrier whose number is xmax itself gives no floor.",
        unit("protocol::floor::tests::only_a_barrier_below_the_previous_snapshot_gives_a_floor"),
        "right: 500",
        [Edit(FLOOR, "*barrier_xid < prev.xmax()", "*barrier_xid <= prev.xmax()")],
    ),
    Bug(
        "old-rows-below-floor",
        "Rows of transactions that were in progress at the previous snapshot are read below the "
        "floor, too.",
        rust(LATE_COMMIT),
        "the oldest id comes first",
        [Edit(WINDOW, "let has_old = floor > 0 &&", "let has_old = false &&")],
    ),
    Bug(
        "turn-within-a-window",
        "The two parts of one window are read without another window between them.",
        unit(
            "protocol::window::tests::"
            "shards_that_were_taken_one_after_the_other_come_to_share_a_poll"
        ),
        "20 reads, and never one poll for both",
        [
            Edit(
                WINDOW,
                "segment.piece.old_up_to = None;\n"
                "                self.segments.push_front(segment);",
                "segment.piece.old_up_to = None;\n"
                "                segment.takes_turns = true;\n"
                "                self.segments.push_back(segment);",
            )
        ],
    ),
    Bug(
        "window-finished-too-soon",
        "A position says that a window is finished only when nothing of it is left to read.",
        unit("protocol::window::tests::every_committed_row_is_read_once"),
        "assertion `left == right` failed",
        [
            Edit(
                WINDOW,
                "let finished = read_up_to.is_none() && segment.piece.old_up_to.is_none();",
                "let finished = read_up_to.is_none();",
            )
        ],
    ),
    Bug(
        "vouching-by-numbers",
        "A window's barrier vouches for a record only where the window's snapshot sees the record: "
        "numbers are drawn in another order than they are committed.",
        unit(
            "protocol::vouching::tests::"
            "a_window_under_way_with_the_record_does_not_whatever_its_number"
        ),
        "right: Fresh",
        [
            Edit(
                VOUCHING,
                "u64::try_from(voucher).is_ok_and(|voucher| snapshot.sees(voucher))",
                "snapshot.xmax() > 0 && window > voucher",
            )
        ],
    ),
    Bug(
        "parked-key-overtaken",
        "Later messages of a parked key wait behind those that are set aside.",
        unit("protocol::sieve::tests::a_verdict_parks_its_key_at_once_and_no_other"),
        "before the verdict is recorded",
        [
            Edit(
                SIEVE,
                "self.held.contains(message.topic()) || self.is_parked(stored)",
                "self.held.contains(message.topic())",
            )
        ],
    ),
    Bug(
        "recorded-delivered-again",
        "What was recorded by somebody whose progress never came is passed over again.",
        unit("protocol::sieve::tests::what_was_recorded_before_a_crash_is_passed_over_once_more"),
        "right: Recorded",
        [
            Edit(
                SIEVE,
                "if self.recorded.contains(&stored.id) {",
                "if false {",
            )
        ],
    ),
    Bug(
        "decision-proves-no-mark",
        "Where something was decided a first mark was written: without it a history was lost.",
        unit("protocol::recovery::tests::a_decision_proves_a_first_mark"),
        "Refuse(ParticipantLost)",
        [Edit(RECOVERY, "u64::from(!decided.is_empty())", "0")],
    ),
]
