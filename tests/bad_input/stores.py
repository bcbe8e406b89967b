"""What can be wrong with stores that a relay finds: databases, Kafka, ZooKeeper, files, clocks; and
with how a command is ended."""

from __future__ import annotations

from tests.planted.bug import e2e, rust, unit

from .case import proved, python

STORES = [
    proved(
        "tables that are not there, for a relay or command",
        "exit code 2",
        e2e("test_refusals.py::test_without_init_it_says_what_to_do"),
        e2e("test_exit_codes.py::test_2_before_init"),
        e2e("test_exit_codes.py::test_2_before_init_without_a_server"),
        says=["the outbox is not set up in this file: run `onecommit init`"],
    ),
    proved(
        "tables of a later or an earlier version, for a relay or command",
        "exit code 4; a relay works with those of the release before",
        e2e("test_schema_versions.py::test_tables_of_a_later_release_are_refused"),
        e2e("test_exit_codes.py::test_4_a_topic_log_of_a_newer_release"),
        rust("outbox_postgres::setup::another_version_of_the_tables_is_left_alone"),
        says=[
            "the … has version …, this release reads …: run the release of onecommit that wrote it"
        ],
    ),
    proved(
        "a row that somebody damaged",
        "in SQLite reading stops and names it; PostgreSQL's constraints keep it out",
        rust("sqlite::a_row_that_cannot_be_read_stops_reading_and_is_named"),
        e2e("test_changed_by_hand.py::test_rows_that_could_not_be_read_are_kept_out"),
        unit("outbox::postgres::rows::tests::columns_that_were_cut_or_changed_are_read_or_refused"),
    ),
    proved(
        "a row that somebody wrote, for a topic or partition that can't be",
        "a dead letter",
        e2e(
            "test_dead_letters.py::"
            "test_a_partition_that_is_not_there_and_a_row_written_by_hand_are_dead_letters"
        ),
        says=["its topic has no partition …"],
    ),
    proved(
        "waiting messages that somebody deleted",
        "all others are delivered, each once and in order",
        e2e("test_changed_by_hand.py::test_messages_that_were_deleted_hold_nothing_up"),
    ),
    proved(
        "our own rows, changed or deleted by hand",
        "exit code 4, or made again where nothing is lost by it",
        e2e("test_changed_by_hand.py::test_our_own_rows"),
        e2e("test_refusals.py::test_a_restored_database_is_refused"),
        e2e("test_servers_fail.py::test_lease_rows_that_were_deleted_under_a_relay_are_made_again"),
        rust("lease_postgres::what_stands_in_the_way_is_said"),
        rust("lease_zookeeper::epochs_go_on_where_they_were_and_nonsense_is_refused"),
        says=["the outbox has no row for this shard: its number of shards was changed by hand"],
    ),
    proved(
        "an identity with CACHE 32, and other changes of the outbox's table",
        "exit code 4",
        rust("outbox_postgres::setup::tables_that_would_lose_or_reorder_messages_are_refused"),
        rust("sqlite::ids_that_come_again_are_noticed"),
        e2e("test_doctor.py::test_a_database_that_was_changed"),
        says=["the outbox's table was changed by hand"],
    ),
    proved(
        "another database behind the same name",
        "exit code 4, before anything is fenced",
        e2e(
            "test_refusals.py::test_a_copied_database_is_refused_and_the_original_is_not_disturbed"
        ),
        e2e("test_refusals.py::test_a_second_database_under_the_name_of_the_first_is_refused"),
        e2e("test_adopt_postgres.py::test_a_dump_that_was_loaded"),
        says=["the progress was written for another database"],
    ),
    proved(
        "a Kafka that was wiped behind the same address",
        "exit code 4; nothing of ours is made there",
        e2e("test_kafka_wiped.py::test_a_kafka_wiped_behind_the_same_address_is_refused"),
        e2e("test_refusals.py::test_another_kafka_cluster_is_refused"),
        says=["the Kafka cluster (or topic log) is another one than the outbox was set up with"],
    ),
    proved(
        "a hot standby as participant",
        "waited for, and read once it is the primary",
        e2e("test_refusals.py::test_a_standby_is_waited_for_and_read_once_it_is_the_primary"),
        e2e("test_refusals.py::test_a_failover_that_lost_something_is_refused"),
    ),
    proved(
        "a topic for messages that is gone",
        "held: only its own messages wait",
        e2e(
            "test_held_topics.py::"
            "test_a_missing_topic_holds_only_its_own_messages_and_they_come_in_order"
        ),
        e2e("test_held_topics.py::test_a_topic_that_is_deleted_under_way_is_held_and_comes_back"),
        says=["it is not there. Make it: `onecommit init --topic …`"],
    ),
    proved(
        "a progress topic that is gone",
        "waited for, and exit code 4 when it is made anew",
        e2e("test_refusals.py::test_a_wiped_progress_topic_is_refused_also_when_it_is_made_anew"),
        rust("delivery_kafka::a_progress_topic_that_is_not_there_is_no_proof_of_anything"),
        says=["this shard has delivered before, but its progress is gone"],
    ),
    proved(
        "a progress topic of other settings",
        "exit code 4",
        rust("delivery_kafka::a_progress_topic_that_would_lose_progress_is_refused"),
        e2e("test_doctor.py::test_a_progress_topic_that_forgets"),
        says=["the progress topic's … must be …"],
    ),
    proved(
        "a topic for messages of other settings",
        "a dead letter each, as the broker names it",
        e2e("test_dead_letters.py::test_records_that_the_broker_finds_invalid_are_named_by_it"),
        e2e("test_doctor.py::test_topics_of_waiting_messages"),
    ),
    proved(
        "a transaction timeout above the broker's limit",
        "waited for, with what to set",
        e2e("test_bad_places.py::test_a_broker_that_allows_no_transaction_of_ours_is_named"),
        e2e("test_doctor.py::test_a_broker_that_allows_no_transaction_of_ours"),
        says=["transaction.max.timeout.ms is below the … ms"],
    ),
    proved(
        "a progress record that is damaged, or of a later version",
        "exit code 4",
        e2e("test_adopt.py::test_a_progress_that_can_not_be_read"),
        unit("protocol::progress::tests::another_version_and_damage_are_refused_in_words"),
        unit("protocol::progress::tests::any_bytes_are_read_or_refused"),
        says=["the progress record is damaged", "the progress record has format …"],
    ),
    proved(
        "a number of shards that was changed",
        "exit code 4",
        e2e("test_refusals.py::test_another_number_of_shards_is_refused"),
        e2e("test_changed_by_hand.py::test_our_own_rows"),
        says=["the outbox was set up with … shards"],
    ),
    proved(
        "two installations with one namespace",
        "in Kafka they do not know each other; in ZooKeeper and in one database exit code 4",
        e2e(
            "test_bad_places.py::"
            "test_two_installations_with_one_namespace_on_one_kafka_do_not_know_each_other"
        ),
        e2e(
            "test_refusals.py::test_another_installation_in_zookeeper_is_refused_by_a_running_relay"
        ),
        rust("lease_zookeeper::zookeeper_is_prepared_once_and_for_one_incarnation"),
        says=["ZooKeeper has this namespace for another incarnation"],
    ),
    proved(
        "a data_dir that is full",
        "waited for; it goes on when there is room",
        e2e("test_bad_places.py::test_a_full_data_dir_stops_nothing_for_good"),
        says=["the disk is full: make room"],
    ),
    proved(
        "a data_dir that is read-only, or can't be made",
        "exit code 2",
        e2e("test_bad_places.py::test_a_folder_on_a_read_only_disk_is_named"),
        e2e("test_bad_places.py::test_a_data_dir_that_is_no_folder_or_not_to_be_written_is_named"),
        says=[
            "the file can't be opened: check that it is there",
            "its file system is not read-only",
        ],
    ),
    proved(
        "a data_dir in use",
        "waited for",
        e2e("test_bad_places.py::test_a_file_that_another_process_holds_is_waited_for_and_named"),
        says=["the file is locked: another process holds its write lock"],
    ),
    proved(
        "a file of somebody else's, or that is replaced",
        "exit code 4; opened again",
        e2e("test_exit_codes.py::test_4_a_file_that_is_no_database"),
        rust("sqlite::files_of_another_kind_are_refused"),
        e2e("test_files_replaced.py::test_an_outbox_that_is_replaced_is_opened_again"),
        says=["the file is not a SQLite database, or is encrypted: check its path"],
    ),
    proved(
        "a network file system",
        "exit code 2, before the file is opened or made",
        e2e("test_bad_places.py::test_files_on_a_network_file_system_are_not_opened"),
        says=[
            "SQLite's locks do not hold on a network file system",
            "move its directory to a local disk, and give the new path",
        ],
    ),
    proved(
        "Ctrl-C at any moment",
        "exit code 130; nothing is half done",
        e2e("test_ctrl_c.py::test_a_command_is_begun_again"),
        e2e("test_ctrl_c.py::test_a_relay_goes_on"),
        e2e("test_command_line.py::test_a_command_that_is_cut_off_is_not_done"),
        e2e("test_command_line.py::test_consume_runs_until_it_is_told"),
        python("test_command_line.py::test_ctrl_c_ends_it_without_a_traceback"),
        python("test_read.py::test_ctrl_c_ends_the_waiting"),
    ),
    proved(
        "stdout closed, or on a full disk",
        "quiet where nobody reads on; otherwise exit code 1",
        e2e("test_command_line.py::test_consume_ends_quietly_when_nobody_reads_on"),
        e2e("test_command_line.py::test_another_command_is_quiet_about_a_closed_pipe_and_not_done"),
        e2e("test_status_watch.py::test_a_pipe_gets_one_view_after_the_other_and_may_be_closed"),
        e2e("test_exit_codes.py::test_1_what_was_asked_for_cannot_be_printed"),
        says=["standard output can't be written"],
    ),
    proved(
        "a clock that jumps an hour either way",
        "nothing changes",
        e2e("test_clock_jumps.py::test_a_relay_at_work_goes_on"),
        e2e("test_clock_jumps.py::test_an_idle_relay_goes_on"),
        e2e("test_clock_jumps.py::test_a_relay_that_waits_for_kafka_goes_on"),
        unit("lease::beats::tests::a_slow_answer_kills_nobody"),
    ),
    proved(
        "a ZooKeeper, or a decisions.db, that was restored from a backup, under those who lock",
        "RefusedError, with both numbers and what a person runs to confirm it",
        rust(
            "coordinator::locks::a_file_that_was_restored_locks_nothing_until_a_person_has_confirmed_it"
        ),
        rust(
            "coordinator::locks::a_zookeeper_that_is_older_than_a_participant_knows_locks_nothing"
        ),
        says=["is older than numbers of locks that were handed out"],
    ),
]
