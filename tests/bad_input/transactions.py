"""What can be wrong with a transaction over several databases: its connections, its participants,
and the places that it relies on."""

from __future__ import annotations

from tests.planted.bug import e2e, rust

from .case import documents, proved, python

MISTAKES = "test_transaction_mistakes.py"
ARGUMENTS = "test_arguments.py"
RUST = "coordinator::mistakes"

TRANSACTIONS = [
    proved(
        "a server that prepares no transactions, or no further ones",
        "ConfigurationError; UnreachableError where all places are taken. Rolled back",
        python(f"{MISTAKES}::test_a_server_that_prepares_nothing_or_nothing_more"),
        says=[
            "PostgreSQL does not prepare transactions: set max_prepared_transactions there",
            "no prepared transaction is free: raise max_prepared_transactions",
        ],
    ),
    proved(
        "a participant that is not configured",
        "InvalidError, with the names of those that are",
        python("test_transaction.py::test_connections_that_can_not_take_part_are_refused"),
        rust(f"{RUST}::a_sqlite_file_has_no_branch_and_it_is_said_why"),
        says=["no participant of this name is configured: there are …"],
    ),
    proved(
        "a SQLite file as participant",
        "InvalidError",
        python(f"{MISTAKES}::test_a_sqlite_branch_is_refused"),
        rust(f"{RUST}::a_sqlite_file_has_no_branch_and_it_is_said_why"),
        says=["SQLite can't prepare a transaction"],
    ),
    proved(
        "a participant that is taken out or renamed while branches of the dead are prepared there",
        "they wait, and it is told once; settled when the participant is back",
        rust(f"{RUST}::a_participant_that_was_taken_out_is_named_and_settled_when_it_is_back"),
        rust(f"{RUST}::a_participant_that_was_renamed_is_named_and_settled_under_its_name"),
        says=["a dead coordinator has used a participant that is not in this configuration"],
    ),
    proved(
        "a participant that is moved while a dead program's branches are prepared there",
        "RefusedError in the log; settled at the old address",
        rust(f"{RUST}::a_participant_that_was_moved_is_named_and_settled_where_it_was"),
        says=["give the participant its old address until they are settled"],
    ),
    proved(
        "a role that recovery can't take",
        "ConfigurationError before anything is prepared",
        documents("test_transactions.py::test_the_rights_of_both_users"),
        rust("participant_postgres::roles::a_member_that_may_not_set_its_role_can_not_act"),
        says=["the branch runs under a role that recovery could not take: grant it to the user"],
    ),
    proved(
        "messages and no outbox",
        "InvalidError at publish",
        python("test_transaction.py::test_only_what_kafka_takes_and_only_where_there_is_an_outbox"),
        says=["no participant of this transaction has an outbox: set `outbox = true`"],
    ),
    proved(
        "messages and two outboxes, none of them named, or both",
        "InvalidError at publish",
        rust(f"{RUST}::with_two_outboxes_the_one_to_wait_in_has_to_be_named"),
        says=[
            "several participants of this transaction have an outbox: say in which",
            "all messages of a transaction wait in the same outbox",
        ],
    ),
    proved(
        "temporary tables, LISTEN, NOTIFY, WITH HOLD, exported snapshots",
        "InvalidError with the branch and PostgreSQL's reason; rolled back",
        rust("coordinator::endings::what_postgresql_does_not_prepare_is_said"),
        rust("participant_postgres::branch::what_can_not_be_prepared_is_an_error_and_rolled_back"),
        says=["this branch can't be prepared: PostgreSQL does not prepare what used"],
    ),
    proved(
        "ZooKeeper away at the first two-phase commit",
        "`open` succeeds and logs it once; UnreachableError, rolled back; one branch alone commits",
        rust(f"{RUST}::without_zookeeper_it_opens_says_so_once_and_one_branch_writes"),
        says=["ZooKeeper does not answer: start it, or correct [zookeeper] servers"],
    ),
    proved(
        "a ZooKeeper that only lets itself be read",
        "as one that is away",
        e2e("test_read_only_zookeeper.py::test_nothing_is_decided_by_it_and_one_branch_commits"),
    ),
    proved(
        "a chroot that is not there",
        "RefusedError, rolled back; nothing is made there",
        rust(f"{RUST}::a_zookeeper_that_was_not_prepared_there_is_named"),
        says=["ZooKeeper does not know this namespace: run `onecommit init`"],
    ),
    proved(
        "no rights in ZooKeeper",
        "ConfigurationError, rolled back",
        rust(f"{RUST}::a_zookeeper_of_others_is_named"),
        says=["ZooKeeper does not allow it: correct [zookeeper] user and password"],
    ),
    proved(
        "a node of somebody else's, or a damaged record or decision, in ZooKeeper or in the file",
        "RefusedError with its path, before anything is fenced",
        rust("decision_log_zookeeper::what_somebody_else_wrote_is_refused_by_its_path"),
        rust("decision_log_file::what_is_damaged_is_refused_and_not_fenced"),
        rust("decision_log_file::a_file_of_another_incarnation_or_kind_is_refused"),
    ),
    proved(
        "`init` on a ZooKeeper that was emptied while branches are prepared",
        "exit code 4, with the branches",
        e2e(
            "test_refusals.py::"
            "test_a_zookeeper_emptied_while_branches_are_prepared_is_not_prepared_anew"
        ),
        says=["ZooKeeper does not know this installation, and transactions of it are prepared"],
    ),
    proved(
        "a clock that jumps an hour either way, for transactions",
        "nothing changes",
        e2e("test_clock_jumps.py::test_transactions_over_two_databases_go_on"),
    ),
    proved(
        "a transaction that is ended twice, or used after its end or before its begin",
        "InvalidError",
        python(f"{MISTAKES}::test_a_transaction_is_ended_once"),
        says=[
            "the transaction is over: it has ended already",
            "it has not begun: use it as a block, with `with`",
            "it has begun already: each block needs one of its own",
            "the transaction is over: publish inside of it",
        ],
    ),
    proved(
        "use before `with onecommit.open`, and after",
        "InvalidError",
        python("test_transaction.py::test_it_is_used_in_its_block"),
        says=["it is not open: use it inside of its `with` block"],
    ),
    proved(
        "a process that forks after `open`",
        "InvalidError in the child",
        python("test_transaction.py::test_a_forked_child_begins_nothing"),
        e2e("test_forks.py::test_a_forked_child_is_told_so_and_touches_nothing_of_its_parents"),
        e2e("test_forks.py::test_nothing_is_opened_anew_in_a_forked_child"),
        says=[
            "this process was forked after `open`, and nothing can be opened in it, or used",
            "open nothing before the fork, and in the child only (gunicorn: without preload_app",
        ],
    ),
    proved(
        "a connection with a transaction open, of one or of another transaction",
        "InvalidError with the participant",
        python(f"{MISTAKES}::test_a_connection_with_a_transaction_open_is_refused"),
        python("test_transaction.py::test_connections_that_can_not_take_part_are_refused"),
        rust("coordinator::endings::connections_that_lead_elsewhere_are_refused"),
        says=[
            "the connection is in use: end its transaction first, or give another connection",
            "the connection has a transaction open already: end it before, or give another one",
        ],
    ),
    proved(
        "a connection that is closed, of another kind, given twice, or to another database",
        "InvalidError; RefusedError for another database",
        python("test_transaction.py::test_connections_that_can_not_take_part_are_refused"),
        says=[
            "a branch needs a connection of psycopg",
            "two participants have the same connection",
            "the connection leads to another database than the participant's url",
        ],
    ),
    proved(
        "two participants that are one database",
        "ConfigurationError with both names",
        rust(f"{RUST}::two_participants_that_are_one_database_are_named"),
        says=["two participants are one and the same database"],
    ),
    proved(
        "a branch that is committed or rolled back inside",
        "InvalidError with the participant; the others are rolled back",
        python(f"{MISTAKES}::test_ending_a_branch_inside_is_noticed"),
        rust(
            "coordinator::reproduced::a_branch_that_is_ended_inside_by_sql_is_named_and_the_others_are_rolled_back"
        ),
        says=["the branch was committed or rolled back inside: leave that to the transaction"],
    ),
    proved(
        "a transaction that is dropped, also by the garbage collector on another thread",
        "nothing is prepared; a connection of Python is told to be in use until it is rolled back",
        python(f"{MISTAKES}::test_one_that_is_dropped_leaves_nothing_prepared"),
        python(f"{MISTAKES}::test_what_was_opened_is_collected_on_another_thread"),
        rust("coordinator::endings::what_is_dropped_or_rolled_back_never_happened"),
        rust("coordinator::recovery::a_caller_that_goes_away_leaves_nothing_prepared"),
    ),
    proved(
        "Ctrl-C inside, and while it prepares",
        "KeyboardInterrupt; all of it is rolled back",
        python(f"{MISTAKES}::test_ctrl_c_inside_rolls_back"),
        python(f"{MISTAKES}::test_ctrl_c_while_it_prepares_leaves_nothing"),
    ),
    proved(
        "a cancelled await, inside and while it prepares",
        "CancelledError; all of it is rolled back",
        python("test_transaction.py::test_a_caller_that_is_cancelled_leaves_nothing"),
        python(f"{MISTAKES}::test_a_caller_that_is_cancelled_while_it_prepares_leaves_nothing"),
    ),
    proved(
        "a lock's name that is empty, too long, no text, or no Unicode",
        "InvalidError, with the name",
        python("test_lock.py::test_mistakes_are_told"),
        says=["a lock's name has 1 to … bytes", "… is …, not …"],
    ),
    proved(
        "a lock outside of its block, twice in one, left twice, or of one that is closed",
        "InvalidError",
        python("test_lock.py::test_mistakes_are_told"),
        python("test_lock.py::test_nothing_is_locked_outside_of_its_block"),
        says=[
            "the transaction is not open: lock inside of it",
            "it was never held",
            "it was held already",
            "it was released already: a block is left once",
        ],
    ),
    proved(
        "a wait for a lock, or joining a group, that is cancelled, also when it had just come",
        "CancelledError; nobody waits behind it, and nobody sees a member",
        python("test_lock.py::test_a_cancelled_wait_leaves_the_queue"),
        python("test_cancelled.py::test_before_it_came"),
        python("test_cancelled.py::test_when_it_had_just_come"),
        python("test_cancelled.py::test_at_any_moment"),
    ),
    proved(
        "a wait for a lock that this very process holds",
        "ConflictError, which says so",
        python("test_lock.py::test_a_wait_for_another_process_and_for_this_one"),
        says=["this very process holds the lock", "this very process is the leader"],
    ),
    proved(
        "a limit or deadline that is no number of seconds, or none that can be waited for",
        "InvalidError, with the argument and its value; no connection is closed",
        python(f"{ARGUMENTS}::test_a_limit_that_is_no_number_of_seconds"),
        python(f"{ARGUMENTS}::test_a_deadline_that_is_none_costs_no_connection"),
        says=["a number of seconds, … (ten years) at most", "more than 0 seconds"],
    ),
    proved(
        "an isolation, an `ack`, attempts, a participant, an outbox, a member, data or a path of "
        "the wrong type, or with a lone surrogate",
        "InvalidError, with the argument and its value",
        python(f"{ARGUMENTS}::test_an_argument_of_the_wrong_kind"),
        python(f"{ARGUMENTS}::test_the_outbox_of_a_message"),
        python(f"{ARGUMENTS}::test_bytes_of_any_type_are_a_members_data"),
        says=["an int that is 1 or more", "it holds a lone surrogate"],
    ),
    proved(
        "`oc.run` with a coroutine function, or the asynchronous one with what can't be awaited",
        "InvalidError; nothing is begun, or all of it is rolled back",
        python(f"{ARGUMENTS}::test_what_is_still_to_be_awaited_is_not_committed"),
        python(f"{ARGUMENTS}::test_what_can_not_be_awaited_is_not_committed"),
        says=[
            "is a coroutine function",
            "use onecommit.open_async",
            "which can't be awaited: give a coroutine function",
        ],
    ),
    proved(
        "two transactions that take two locks crosswise",
        "ConflictError of one of them, at once",
        python("test_lock.py::test_a_deadlock_is_run_again"),
        rust("coordinator::locks::a_deadlock_of_two_transactions_is_told_to_one_in_zookeeper"),
        says=["a deadlock: whoever holds this lock waits for one that this transaction holds"],
    ),
    proved(
        "something of somebody else's in a lock's queue in ZooKeeper",
        "RefusedError with the name of the lock and the node",
        rust("lock_zookeeper::what_this_release_does_not_know_is_nobodys_lock"),
        says=[
            "there is something in this lock's queue that this release of onecommit does not know"
        ],
    ),
]
