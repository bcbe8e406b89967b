"""Bugs in locks: in who holds one, and until when."""

from __future__ import annotations

from .bug import Bug, Edit, rust, unit

PROTOCOL = "src/protocol/lock.rs"
SESSION = "src/lock/zookeeper/session.rs"
ROWS = "src/lock/file/rows.rs"
ACQUIRE = "src/lock/acquire.rs"
IN_NODE = "src/coordinator/locks.rs"
HOLDER = "src/coordinator/holder.rs"
WORK = "src/coordinator/dialogue/work.rs"
TRANSACTION = "src/protocol/transaction/mod.rs"

IN_ZOOKEEPER = rust("lock_zookeeper::zookeeper_conforms")
IN_A_FILE = rust("lock_file::the_file_conforms")
LOCKS = "coordinator::locks::"

BUGS = [
    Bug(
        "lock-dies-with-its-session",
        "A transaction's lock outlives its session: its branches may not be applied yet.",
        IN_ZOOKEEPER,
        "it was released before everything was settled",
        [Edit(SESSION, "mode = zk::CreateMode::Persistent;", "mode = zk::CreateMode::Ephemeral;")],
    ),
    Bug(
        "lock-released-before-apply",
        "A lock is given up behind the last branch's end, and not before.",
        rust(f"{LOCKS}a_lock_in_zookeeper_stays_until_all_is_applied"),
        "released before it was applied",
        [
            Edit(
                WORK,
                "let is_settled = match rest {",
                "let mut locked = locked; locks.release(id, std::mem::take(&mut locked)).await; "
                "let is_settled = match rest {",
            )
        ],
    ),
    Bug(
        "lock-released-in-doubt",
        "A lock of a transaction in doubt is its recoverer's to release.",
        rust(f"{LOCKS}a_lock_in_doubt_is_not_given_up_by_its_holder"),
        "given up without knowing how it ended",
        [
            Edit(
                WORK,
                "if is_settled {\n                locks.release",
                "if is_settled || !locked.is_empty() {\n                locks.release",
            )
        ],
    ),
    Bug(
        "lock-released-at-takeover",
        "A dead holder's lock is free once every branch is settled, and not as soon as somebody "
        "has taken over.",
        IN_ZOOKEEPER,
        "it was released before everything was settled",
        [
            Edit(
                SESSION,
                "if record.is_none() {",
                "if record.is_none_or(|fence| fence.version > 0) {",
            )
        ],
    ),
    Bug(
        "lock-without-the-fence",
        "Who has lost the right to decide takes no lock.",
        IN_ZOOKEEPER,
        "called `Result::unwrap_err()` on an `Ok` value",
        [
            Edit(
                SESSION,
                "writer.add_check_version(&self.paths.fence(fence.coordinator), "
                "fence.number as i32)?;\n            parts.push(Part::Fence);",
                "let _ = fence;",
            )
        ],
    ),
    Bug(
        "lock-without-the-fence-in-a-file",
        "The same in a file.",
        IN_A_FILE,
        "called `Result::unwrap_err()` on an `Ok` value",
        [
            Edit(
                ROWS,
                "!= Some(fence.number) {",
                "== Some(fence.number + 1_000_000) {",
            )
        ],
    ),
    Bug(
        "deadlock-not-looked-for",
        "A circle of waits is told at once, and not by the deadline.",
        rust(f"{LOCKS}a_deadlock_of_two_transactions_is_told_to_one_in_a_file"),
        "somebody else held the lock for as long as this waited",
        [
            Edit(
                ACQUIRE,
                "closed_circle(id, &waits) else",
                "closed_circle(id, &waits).filter(|_| false) else",
            )
        ],
    ),
    Bug(
        "deadlock-told-to-all",
        "Of a circle's waits only the last one is told.",
        unit("protocol::lock::tests::the_last_who_began_to_wait_is_told_and_nobody_else"),
        "left: Some(",
        [Edit(PROTOCOL, ".filter(|wait| wait.began <= own.began)", "")],
    ),
    Bug(
        "lock-herd",
        "Who waits is woken by the one before it only.",
        unit("protocol::lock::tests::the_first_holds_and_each_other_watches_the_one_before_it"),
        "left: Behind(",
        [Edit(PROTOCOL, "max_by_key(|entry| entry.number)", "min_by_key(|entry| entry.number)")],
    ),
    Bug(
        "lock-decided-without-the-log",
        "With a lock one writer is decided where the lock is: a plain COMMIT asks nobody.",
        rust(f"{LOCKS}who_is_taken_for_dead_commits_and_locks_nothing_more"),
        "called `Result::unwrap_err()` on an `Ok` value",
        [
            Edit(
                TRANSACTION,
                "[writer] if !self.holds_locks =>",
                "[writer] =>",
            ),
        ],
    ),
    Bug(
        "lock-claimed-behind-its-session",
        "A lock is not claimed once nobody has answered for the session's timeout.",
        rust(f"{LOCKS}who_has_lost_the_session_is_told_before_another_one_holds_the_lock"),
        "two claim it",
        [
            Edit(
                HOLDER,
                "self.last_certain(state).is_none_or(|until| Instant::now() < until)",
                "self.last_certain(state).is_none_or(|_| true)",
            )
        ],
    ),
    Bug(
        "lock-numbers-fall-unnoticed",
        "Where a participant knows higher numbers than the store, nothing is locked.",
        rust(f"{LOCKS}a_file_that_was_restored_locks_nothing_until_a_person_has_confirmed_it"),
        "called `Option::unwrap()` on a `None` value",
        [Edit(IN_NODE, "**floor > position)", "**floor > position && false)")],
    ),
]
