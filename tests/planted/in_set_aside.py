"""Bugs in how messages that can't be delivered are recorded, kept and retried."""

from __future__ import annotations

from .bug import Bug, Edit, e2e, rust

WRITER = "src/relay/writer.rs"
ASIDE = "src/outbox/postgres/set_aside.rs"
FAIL_OVER = "test_dead_letters_fail_over.py"
CONFORMS = rust("outbox_postgres::postgresql_conforms")

BUGS = [
    Bug(
        "verdict-without-fresh-barrier",
        "The progress that passes over a message names a barrier that was committed with its "
        "record.",
        e2e(f"{FAIL_OVER}::test_a_verdict_that_a_failover_has_lost_is_not_passed_over"),
        "the relay did not end",
        [
            Edit(
                WRITER,
                "None => Some(self.asides.record(&sent.asides)?),",
                "None => {\n"
                "                self.asides.record(&sent.asides)?;\n"
                "                end.voucher().or(self.voucher)\n"
                "            }",
            )
        ],
    ),
    Bug(
        "cleared-not-in-progress",
        "The progress names the messages that were retried until their records are surely gone.",
        e2e(
            f"{FAIL_OVER}::test_a_retry_whose_record_a_failover_brings_back_is_not_delivered_again"
        ),
        "the successor removes them",
        [
            Edit(
                WRITER,
                "cleared: end.cleared.iter().map(|id| id.0).collect(),",
                "cleared: Vec::new(),",
            )
        ],
    ),
    Bug(
        "aside-by-any-epoch",
        "Who takes a shard looks at what is set aside only under the epoch that the row has.",
        CONFORMS,
        "called `Result::unwrap_err()` on an `Ok` value",
        [
            Edit(
                ASIDE,
                "where shard = $1 and epoch = $2 for share",
                "where shard = $1 and $2 is not null for share",
            )
        ],
    ),
    Bug(
        "records-not-read-at-the-start",
        "Who takes a shard reads which of the messages before it are set aside already.",
        CONFORMS,
        "assertion `left == right` failed",
        [
            Edit(
                ASIDE,
                "recorded: not_passed(connection, OPERATION, shard, &progress.position).await?,",
                "recorded: Vec::new(),",
            )
        ],
    ),
    Bug(
        "set-aside-pruned",
        "A message that is set aside stays in the outbox, whatever progress has passed.",
        CONFORMS,
        "the other two are delivered",
        [
            Edit(
                "src/outbox/postgres/prune.rs",
                "    if outbox.has_set_aside {\n        let set_aside",
                "    if outbox.has_set_aside && false {\n        let set_aside",
            )
        ],
    ),
]
