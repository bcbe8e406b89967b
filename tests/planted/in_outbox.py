"""Bugs in how an outbox is read, fenced and pruned."""

from __future__ import annotations

from .bug import Bug, Edit, e2e, rust

CONNECTION = "src/outbox/postgres/connection.rs"
BARRIER = "src/outbox/postgres/barrier.rs"
READ = "src/outbox/postgres/read.rs"
READING = "src/outbox/postgres/reading.rs"
DELIVERED = "src/outbox/postgres/delivered.rs"
TRUNCATE = "src/outbox/postgres/truncate.rs"
PORT = "src/outbox/postgres/port.rs"
ADOPT = "src/outbox/postgres/adopt.rs"
CONFORMS = rust("outbox_postgres::postgresql_conforms")
CLAIM_WAITS = rust("outbox_postgres::fence::a_claim_waits_for_a_barrier_and_fences_what_follows")
WRITER_WAITS = rust("outbox_postgres::fence::a_barrier_waits_for_a_claim_and_is_fenced")
CHANGED_TABLES = rust(
    "outbox_postgres::setup::tables_that_would_lose_or_reorder_messages_are_refused"
)
FLUSH = rust(
    "read_path::edges::"
    "a_barrier_is_flushed_whatever_the_default_is_and_however_soon_the_next_read_comes"
)

BUGS = [
    Bug(
        "standby-accepted",
        "A standby is never read: its snapshots lack running transactions.",
        e2e("test_refusals.py::test_a_standby_is_waited_for_and_read_once_it_is_the_primary"),
        "is a standby in recovery",
        [
            Edit(
                CONNECTION,
                'from_postgres("connect", error))? {',
                'from_postgres("connect", error))? && false {',
            )
        ],
    ),
    Bug(
        "server-life-ignored",
        "Another server life than before means that PostgreSQL crashed, whatever else it shows.",
        rust("outbox_postgres::fence::a_crash_that_shows_nowhere_else_ends_every_read"),
        "called `Result::unwrap_err()` on an `Ok` value",
        [Edit(CONNECTION, "if seen == Some(self.life) {", "if seen != Some(Uuid::nil()) {")],
    ),
    Bug(
        "error-keeps-the-connection",
        "After an error the connection, what it read and where it stood are worth nothing.",
        rust("read_path::edges::a_read_that_was_given_up_ends_the_connection"),
        "another connection is needed",
        [
            Edit(
                PORT,
                "if std::mem::replace(&mut self.unfinished, true) {",
                "if std::mem::replace(&mut self.unfinished, false) {",
            )
        ],
    ),
    Bug(
        "barrier-without-lock",
        "A barrier is inserted under a lock of the shard's row, so that no claim comes in between.",
        CLAIM_WAITS,
        "a statement that waits for a lock",
        [Edit(BARRIER, "w.epoch = s.epoch\n             for share of s),", "w.epoch = s.epoch),")],
    ),
    Bug(
        "barrier-of-any-epoch",
        "A barrier is inserted only under the epoch that the shard's row has.",
        CLAIM_WAITS,
        "an older epoch must be refused",
        [
            Edit(
                BARRIER,
                "on w.shard = s.shard and w.epoch = s.epoch\n             for share of s),",
                "on w.shard = s.shard\n             for share of s),",
            )
        ],
    ),
    Bug(
        "claim-by-any-epoch",
        "A claim is refused where a higher epoch has claimed the shard.",
        CONFORMS,
        "an older epoch must be refused",
        [Edit(PORT, '"epoch = $2", "epoch <= $2"', '"epoch = $2", "$2 is not null"')],
    ),
    Bug(
        "shard-row-by-any-epoch",
        "What a relay notes in the shard's row is refused under another epoch than the row's.",
        CONFORMS,
        "an older epoch must be refused",
        [Edit(PORT, '"born = true", "epoch = $2"', '"born = true", "$2 is not null"')],
    ),
    Bug(
        "prune-without-lock",
        "Pruning holds the shards' rows until it commits: a check alone lets it land behind one.",
        WRITER_WAITS,
        "panicked at tests/rust/outbox_postgres/fence.rs",
        [Edit(DELIVERED, "b.shard = s.shard\n           for share of s", "b.shard = s.shard")],
    ),
    Bug(
        "emptied-without-a-second-look",
        "Before the table is emptied it is looked at again, under its lock.",
        rust("outbox_postgres::truncate::what_is_committed_while_the_lock_is_waited_for_stays"),
        "assertion `left == right` failed",
        [Edit(TRUNCATE, "select 1 / (not ({undelivered}))::int;", "")],
    ),
    Bug(
        "emptied-by-the-snapshot-alone",
        "Of a window that is under way, what comes behind its last id is undelivered.",
        rust("outbox_postgres::truncate::what_is_not_passed_inside_a_window_stays"),
        "assertion `left == right` failed",
        [Edit(TRUNCATE, "last = last.min(*up_to);", "")],
    ),
    Bug(
        "emptied-with-what-is-set-aside",
        "A table that holds messages that are set aside is not emptied.",
        rust("outbox_postgres::truncate::messages_that_are_set_aside_stay"),
        "assertion `left == right` failed",
        [Edit(TRUNCATE, "match outbox.has_set_aside {", "match false {")],
    ),
    Bug(
        "emptied-for-another-relay",
        "Only a relay that delivers every shard may empty the table.",
        rust("outbox_postgres::truncate::the_messages_of_another_relays_shard_stay"),
        "assertion `left == right` failed",
        [
            Edit(
                TRUNCATE,
                "delivered.len() < usize::from(outbox.shards) || ",
                "",
            ),
            Edit(
                TRUNCATE,
                "count(*) filter (where ({}) is not true)",
                "count(*) filter (where ({}) is false)",
            ),
        ],
    ),
    Bug(
        "barrier-on-its-own",
        "The barrier is committed by the very transaction that took the window's snapshot.",
        FLUSH,
        "the barrier is not flushed",
        [
            Edit(
                READ,
                "let inserted = barrier::insert(connection, &epochs).await?;",
                'connection.execute("insert barrier", "commit; begin").await?;\n'
                "        let inserted = barrier::insert(connection, &epochs).await?;",
            )
        ],
    ),
    Bug(
        "barrier-commit-sent-late",
        "The barrier's commit is on its way before the next window begins.",
        FLUSH,
        "the barrier is not flushed",
        [
            Edit(
                BARRIER,
                "outcome = &mut committing => Some(outcome),\n        () = ready(()) => None,",
                "() = ready(()) => None,\n        outcome = &mut committing => Some(outcome),",
            )
        ],
    ),
    Bug(
        "barrier-not-flushed",
        "The barrier's commit waits for its flush, whatever the database's default is.",
        FLUSH,
        "the barrier is not flushed",
        [Edit(READING, 'format!("{BEGIN}; {DURABLE}; {}",', 'format!("{BEGIN}; {}",')],
    ),
    Bug(
        "barrier-not-inserted",
        "Every window that found something has a barrier row.",
        CONFORMS,
        "has_barrier(SHARD, barrier)",
        [
            Edit(
                BARRIER,
                "from held\n             returning shard, counter)",
                "from held where false\n             returning shard, counter)",
            ),
            Edit(
                BARRIER,
                "select shard, counter from inserted",
                "select shard, pg_current_xact_id()::text::bigint from held",
            ),
        ],
    ),
    Bug(
        "barrier-row-used-again",
        "A barrier is a row of its own under a fresh id, never one that is updated: after a "
        "failover it would vouch for a window that is lost.",
        e2e("test_refusals.py::test_a_failover_that_lost_only_the_last_window_is_refused"),
        "the relay did not end",
        [
            Edit(
                BARRIER,
                "shards.keys().map(|_| Uuid::new_v4()).collect()",
                "shards.keys().map(|shard| Uuid::from_u128(u128::from(shard.0) + 1)).collect()",
            ),
            Edit(
                BARRIER,
                "from held\n             returning shard, counter)",
                "from held\n"
                "             on conflict (id) do update set "
                "epoch = excluded.epoch, counter = excluded.counter\n"
                "             returning shard, counter)",
            ),
        ],
    ),
    Bug(
        "small-window-cut-off",
        "A small window that fills its limit is thrown away, and read as a backlog.",
        rust("read_path::edges::an_id_that_was_never_handed_out_is_no_floor"),
        "right: 50",
        [Edit(READ, "if found.len() >= limit || rows.cut {", "if rows.cut {")],
    ),
    Bug(
        "late-commit-not-looked-for",
        "A small window has the rows of transactions that were in progress at the one before.",
        rust("read_path::edges::a_late_commit_comes_in_a_small_window"),
        "the late one",
        [
            Edit(
                READ,
                "where xid = any($2::text[]::xid8[]) {filter}",
                "where xid = any($2::text[]::xid8[]) and false {filter}",
            )
        ],
    ),
    Bug(
        "pieces-by-what-is-visible",
        "Every piece of a window is filtered by the window's snapshot, not by what is visible when "
        "it is read.",
        rust("read_path::edges::a_commit_between_two_pieces_is_read_once"),
        "each once, in order",
        [
            Edit(
                READ,
                "id <= $5\n                 and pg_visible_in_snapshot(xid, $2::text::pg_snapshot)",
                "id <= $5\n                 and $2::text <> ''",
            )
        ],
    ),
    Bug(
        "floor-after-the-barrier",
        "The sequence is read before the barrier draws its number.",
        rust("read_path::edges::an_insert_that_meets_a_barrier_is_read"),
        "right: 20",
        [
            Edit(
                READ,
                "self.windows.note_floor(last_id, inserted.xid);",
                'let sql = format!("select {}", last_id_column(&connection.schema));\n'
                '        let rows = connection.query("read outbox", &sql, &[]).await?;\n'
                "        let last_id = get(&rows[0], 0).unwrap_or(last_id);\n"
                "        self.windows.note_floor(last_id, inserted.xid);",
            )
        ],
    ),
    Bug(
        "unused-sequence-is-a-floor",
        "A sequence that was never used has handed nothing out, though it says 1.",
        rust("read_path::edges::an_id_that_was_never_handed_out_is_no_floor"),
        "right: 50",
        [Edit(READING, "select last_value - (not is_called)::int from", "select last_value from")],
    ),
    Bug(
        "prune-by-id-alone",
        "What is pruned was seen by the window's snapshot: by its id alone a late commit went that "
        "was never delivered.",
        rust("read_path::edges::a_late_commit_is_not_pruned_by_its_id"),
        "only what was delivered goes",
        [
            Edit(
                DELIVERED,
                '"({passed} or (id <= {last} and {}))", seen(2 * index + 2)',
                '"({passed} or id <= {last})"',
            )
        ],
    ),
    Bug(
        "prune-all-barriers-but-one",
        "Pruning removes barriers that are older than the named one, and no younger ones.",
        CONFORMS,
        "right: [false, true, true]",
        [
            Edit(
                DELIVERED,
                "and (b.epoch, b.counter) < (n.epoch, n.counter))",
                "and b.counter <> n.counter)",
            )
        ],
    ),
    Bug(
        "cached-sequence-accepted",
        "The sequence of ids has CACHE 1: with more, ids are out of order even among writers that "
        "exclude each other.",
        CHANGED_TABLES,
        "alter sequence {s}.outbox_id_seq cache 32",
        [Edit(PORT, '"select s.seqcache = 1 and x.attnum', '"select s.seqcache > 0 and x.attnum')],
    ),
    Bug(
        "column-order-not-checked",
        "The column xid stands before id: a row must draw its transaction's number first.",
        CHANGED_TABLES,
        "alter table {s}.outbox add column xid",
        [Edit(PORT, "and x.attnum < i.attnum\n", "and x.attnum <> i.attnum\n")],
    ),
    Bug(
        "foreign-numbers-kept",
        "An adoption gives rows of another server's transactions a number of this one's.",
        rust(
            "outbox_postgres::adopt::"
            "rows_with_numbers_yet_to_be_handed_out_come_in_the_order_of_ids"
        ),
        "assertion `left == right` failed",
        [
            Edit(
                ADOPT,
                "where o.id = p.id and (",
                "where o.id = p.id and o.xid < $3::text::xid8 and (",
            )
        ],
    ),
    Bug(
        "sqlite-ids-come-again",
        "In SQLite an outbox without AUTOINCREMENT is refused: its ids would come again.",
        rust("sqlite::ids_that_come_again_are_noticed"),
        "called `Option::unwrap()` on a `None` value",
        [
            Edit(
                "src/outbox/sqlite/init.rs",
                'if !sql.to_ascii_lowercase().contains("autoincrement") {',
                'if !sql.to_ascii_lowercase().contains("primary key") {',
            )
        ],
    ),
]
