"""Bugs in how a relay takes shards, delivers them and lets go of them."""

from __future__ import annotations

from .bug import Bug, Edit, e2e, rust, unit

TAKE = "src/relay/take.rs"
FIT = "src/relay/fit.rs"
WRITER = "src/relay/writer.rs"
DELIVER = "src/relay/deliver.rs"
REFUSALS = "test_refusals.py"
TAKING_OVER = "test_taking_over.py"
UNKNOWN_OUTCOME = e2e(
    "test_unclear_commits.py::test_a_commit_whose_outcome_is_not_known_is_followed_by_no_abort"
)

BUGS = [
    Bug(
        "missing-barrier-accepted",
        "A database without the barrier row that the progress names is refused.",
        e2e(f"{REFUSALS}::test_a_restored_database_is_refused"),
        "the relay did not end",
        [
            Edit(
                FIT,
                "Some(barrier) if outbox.has_barrier(shard, barrier).await? => Ok(()),",
                "Some(barrier) if outbox.has_barrier(shard, barrier).await? || row.born => Ok(()),",
            )
        ],
    ),
    Bug(
        "fences-before-identity",
        "Identity is checked before anything is written or fenced.",
        e2e(f"{REFUSALS}::test_a_copied_database_is_refused_and_the_original_is_not_disturbed"),
        "the relay did not end",
        [
            Edit(
                TAKE,
                "check_progress(&self.installation, outbox, shard, &row, database, Some(&seen))",
                "async { Ok::<(), Error>(()) }",
            )
        ],
    ),
    Bug(
        "lost-progress-is-a-birth",
        "A shard that has delivered and has no progress any more is refused.",
        e2e(f"{REFUSALS}::test_a_wiped_progress_topic_is_refused_also_when_it_is_made_anew"),
        "the relay did not end",
        [
            Edit(
                FIT,
                "if row.born {\n            let why",
                "if false {\n            let why",
            )
        ],
    ),
    Bug(
        "progress-read-before-the-fence",
        "Progress is read behind the fence: before it the predecessor can still commit.",
        e2e(f"{TAKING_OVER}::test_what_is_committed_until_the_fence_is_not_delivered_again"),
        "duplicate",
        [
            Edit(
                TAKE,
                "let above = seen.map_or(row.epoch, |progress|",
                "let before = seen.clone();\n        let above = seen.map_or(row.epoch, |progress|",
            ),
            Edit(
                TAKE,
                "let found = delivery.progress()?;",
                "let found = before.or(delivery.progress()?);",
            ),
        ],
    ),
    Bug(
        "epoch-not-above-progress",
        "A lease whose epoch is not above the one that the progress names is written anew.",
        e2e("test_servers_fail.py::test_lease_rows_that_were_deleted_under_a_relay_are_made_again"),
        "delivers shard=",
        [
            Edit(
                TAKE,
                "row.epoch.max(Epoch(progress.epoch)));",
                "Epoch(0).min(Epoch(progress.epoch)));",
            ),
            Edit(
                TAKE,
                "filter(|found| found.epoch >= epoch.0)",
                "filter(|found| found.epoch > epoch.0)",
            ),
        ],
    ),
    Bug(
        "lease-without-higher-epoch",
        "Who takes a lease again gets a higher epoch than before.",
        rust("lease_postgres::postgres_leases_conform"),
        "panicked at tests/rust/conformance_lease.rs",
        [
            Edit(
                "src/lease/beats.rs",
                "self.epoch.max(above).next()",
                "self.epoch.max(above).max(Epoch(1))",
            )
        ],
    ),
    Bug(
        "barrier-not-waited-for",
        "Nothing of a window is committed to Kafka before its barrier is durable.",
        e2e("test_barriers.py::test_nothing_is_delivered_before_its_barrier_is_durable"),
        "delivered without a barrier",
        [Edit(WRITER, "            self.wait_for(barrier)?;\n", "            let _ = barrier;\n")],
    ),
    Bug(
        "error-keeps-the-position",
        "After an error of its delivery a shard begins anew from its progress.",
        e2e("test_crash_points.py::test_errors_at_every_step_stop_no_relay[postgres]"),
        "deliver",
        [
            Edit(
                DELIVER,
                'return Err(error.with("shard", self.writer.shard()));',
                "if error.kind() != ErrorKind::Failed {\n                        "
                'return Err(error.with("shard", self.writer.shard()));\n                    }',
            )
        ],
    ),
    Bug(
        "abort-after-unknown-commit",
        "A commit whose outcome is not known is followed by no abort.",
        UNKNOWN_OUTCOME,
        "aborts",
        [
            Edit(
                DELIVER,
                "if !matches!(error.kind(), ErrorKind::Unclear | ErrorKind::Fenced) {",
                "if !matches!(error.kind(), ErrorKind::Fenced) {",
            )
        ],
    ),
    Bug(
        "prune-by-position-in-memory",
        "Pruning follows the progress that is known to be committed.",
        UNKNOWN_OUTCOME,
        "lost",
        [
            Edit(
                WRITER,
                "        self.taken.delivery.commit()?;\n",
                "        let taken = &self.taken;\n"
                "        let ahead = (taken.shard, taken.epoch, progress.position.clone());\n"
                "        self.committed.note(Delivered { shard: ahead.0, epoch: ahead.1, "
                "position: ahead.2, barrier: progress.barrier() });\n"
                "        self.committed.unpruned.add(sent.messages);\n"
                "        self.taken.delivery.commit()?;\n",
            )
        ],
    ),
    Bug(
        "renewed-without-epoch",
        "A producer is made anew only while the shard's row has the own epoch: it would fence the "
        "successor.",
        e2e(f"{TAKING_OVER}::test_who_begins_anew_too_late_does_not_fence_its_successor"),
        "it was fenced",
        [Edit(WRITER, "        self.asides.check_epoch()?;\n", "")],
    ),
    Bug(
        "renewed-without-progress",
        "Who makes its producer anew goes on only where nobody has delivered meanwhile.",
        e2e(f"{TAKING_OVER}::test_who_begins_anew_behind_its_successor_delivers_nothing"),
        "duplicate",
        [
            Edit(
                WRITER,
                "if found.as_ref() == Some(&self.taken.progress) {",
                "if found.is_some() {",
            )
        ],
    ),
    Bug(
        "delivered-proofs-go",
        "A delivered message of a transaction stays until nobody can ask for it as a proof.",
        rust(
            "coordinator::one_phase::its_message_stays_when_it_is_delivered_and_those_of_others_go"
        ),
        "assertion `left == right` failed",
        [
            Edit(
                "src/relay/read.rs",
                "            self.committed.proofs.read(&batch.chunks, Instant::now());\n",
                "",
            )
        ],
    ),
    Bug(
        "inherited-proofs-go",
        "A relay that did not deliver them itself keeps a transaction's messages, too.",
        rust(
            "coordinator::one_phase::its_message_stays_when_it_is_delivered_and_those_of_others_go"
        ),
        "the next relay, which did not deliver it, keeps it",
        [
            Edit(
                "src/relay/prune.rs",
                "outbox.has_proofs(self.keep_proofs).await?",
                "false",
            )
        ],
    ),
    Bug(
        "the-living-share-an-id",
        "A relay has the id of its predecessor only where that is dead.",
        unit(
            "service::relay_id::tests::the_living_have_ids_of_their_own_and_the_dead_are_succeeded"
        ),
        "assertion `left != right` failed",
        [
            Edit(
                "src/service/relay_id.rs",
                "match file.try_lock() {",
                "match Ok::<(), TryLockError>(()) {",
            )
        ],
    ),
]
