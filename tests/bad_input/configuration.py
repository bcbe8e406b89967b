"""What can be wrong in a configuration, in what a reader is asked for, and at a server's door."""

from __future__ import annotations

from pathlib import Path

from tests.planted.bug import e2e, rust, unit

from .case import Place, proved, python, tried

KAFKA = '[kafka]\n"bootstrap.servers" = "127.0.0.1:1"\n'


def read_by_a_file_that_is_no_text(at: Place) -> None:
    file = at.folder / "latin1.toml"
    file.write_bytes('namespace = "ä"'.encode("latin1"))
    at.read(config=file)


CONFIGURATION = [
    tried(
        "an unknown configuration key",
        "ConfigurationError",
        'unknown key "namespaec" above all tables: did you mean namespace?',
        "onecommit.toml:1:1",
        act=lambda at: at.read(config='namespaec = "shop"'),
    ),
    tried(
        "an unknown key of a table",
        "ConfigurationError",
        "[relay] lease_timeout: unknown key: did you mean lease_timeout_ms?",
        "onecommit.toml:2:1",
        act=lambda at: at.read(config="[relay]\nlease_timeout = 5000"),
    ),
    tried(
        "an unknown table",
        "ConfigurationError",
        "did you mean relay?",
        "onecommit.toml:1:2",
        act=lambda at: at.read(config="[relays]\n"),
    ),
    tried(
        "a setting of the wrong type",
        "ConfigurationError",
        "[relay] batch_bytes: expected a whole number from 1024 to 268435456, found a text",
        "onecommit.toml:2:1",
        act=lambda at: at.read(config='[relay]\nbatch_bytes = "4M"'),
    ),
    tried(
        "a setting out of its bounds",
        "ConfigurationError",
        "[relay] batch_messages: expected a whole number from 1 to 100000, found 0",
        "onecommit.toml:2:1",
        act=lambda at: at.read(config="[relay]\nbatch_messages = 0"),
    ),
    tried(
        "require_acl without a user",
        "ConfigurationError",
        "[zookeeper] require_acl: user and password have to be given with it",
        "onecommit.toml:3:1",
        act=lambda at: at.read(config='[zookeeper]\nservers = "a:1"\nrequire_acl = true'),
    ),
    proved(
        "a setting at run time that the file could not have, or that takes a restart",
        "exit code 2, and nothing is stored",
        e2e("test_settings.py::test_what_could_not_be_in_the_file_is_not_stored"),
        unit(
            "config::run_time::tests::"
            "a_key_that_takes_a_restart_says_why_and_an_unknown_one_what_was_meant"
        ),
        says=["takes a restart", "is no setting"],
    ),
    proved(
        "a setting at run time of a later release",
        "what held before goes on to hold, and the log says so",
        e2e("test_settings.py::test_what_a_later_release_has_set_is_refused_and_kept"),
        says=["settings are refused: those of before hold"],
    ),
    tried(
        "a file that is no TOML",
        "ConfigurationError",
        "onecommit.toml:1:",
        act=lambda at: at.read(config="namespace = shop"),
    ),
    tried(
        "a file that is no text",
        "ConfigurationError",
        "not UTF-8",
        "latin1.toml",
        act=read_by_a_file_that_is_no_text,
        cause="RuntimeError",
    ),
    tried(
        "a file that is not there",
        "ConfigurationError",
        "not there",
        "absent.toml",
        act=lambda at: at.read(config=at.folder / "absent.toml"),
        cause="RuntimeError",
    ),
    tried(
        "a file that is a folder",
        "ConfigurationError",
        "Is a directory",
        act=lambda at: at.read(config=at.folder),
        cause="RuntimeError",
    ),
    tried(
        "a refused librdkafka property",
        "ConfigurationError",
        "acks: can't be set",
        "onecommit.toml:3:1",
        act=lambda at: at.read(config=KAFKA + 'acks = "1"'),
    ),
    tried(
        "an unknown librdkafka property",
        "ConfigurationError",
        "did you mean compression.type?",
        "onecommit.toml:3:1",
        act=lambda at: at.read(config=KAFKA + '"compresion.type" = "lz4"'),
    ),
    proved(
        "a value that librdkafka does not take",
        "exit code 2, without the value",
        e2e("test_command_line.py::test_a_kafka_property_that_is_not_taken_ends_a_command"),
    ),
    tried(
        "another kind of database",
        "ConfigurationError",
        "[participants.main] url",
        "onecommit.toml:2:1",
        act=lambda at: at.read(config='[participants.main]\nurl = "mysql://db/shop"'),
    ),
    proved(
        "every other fault of a configuration",
        "exit code 2, with key, place and the way on",
        unit("config::tests::errors_name_key_place_and_the_way_out"),
        unit("config::tests::a_variable_that_fits_no_setting_is_refused_by_name"),
        unit("config::tests::whatever_is_written_is_read_or_refused"),
        unit("config::postgres_url::tests::what_can_not_be_meant_is_refused_by_name"),
        e2e("test_exit_codes.py::test_2_configuration"),
    ),
    tried(
        "a configuration that is no path",
        "InvalidError",
        "config is a path, not int",
        act=lambda at: at.read(config=5),
    ),
    tried(
        "a configuration's path with a NUL",
        "ConfigurationError",
        "read configuration",
        act=lambda at: at.read(config=Path("a\0b")),
        cause="RuntimeError",
    ),
    tried(
        "reading a topic that is no text",
        "InvalidError",
        "read: topic is a str, not NoneType",
        act=lambda at: at.read(None),
    ),
    tried(
        "reading a topic that no UTF-8 can spell",
        "InvalidError",
        "read: topic can't be encoded as UTF-8: it holds a lone surrogate",
        act=lambda at: at.read("\ud800"),
        cause="UnicodeEncodeError",
    ),
    tried(
        "reading an illegal topic",
        "InvalidError",
        "read: a topic's name has only letters, digits, . _ and -, not '\\0'",
        'topic: "a\\0b"',
        act=lambda at: at.read("a\0b", config=KAFKA),
    ),
    tried(
        "reading by a group that is no text",
        "InvalidError",
        "read: group is a str, not int",
        act=lambda at: at.read(group=5),
    ),
    tried(
        "reading without `init`",
        "ConfigurationError",
        "there is no topic log here: run `onecommit init`",
        "topics.db",
        act=lambda at: at.read(),
    ),
    tried(
        "a limit that makes no sense",
        "InvalidError",
        "timeout_ms is an int that is 0 or more",
        "timeout_ms: -1",
        act=lambda at: at.read(timeout_ms=-1),
    ),
    proved(
        "a topic that nobody made, for a reader",
        "exit code 2",
        e2e("test_exit_codes.py::test_2_a_topic_that_nobody_made"),
        python("test_read_kafka.py::test_a_topic_that_is_not_there"),
        says=["there is no such topic: `onecommit init --topic …` makes it"],
    ),
    proved(
        "an unreachable server",
        "exit code 3 with its address; a relay waits",
        e2e("test_exit_codes.py::test_3_a_server_is_away"),
        e2e("test_exit_codes.py::test_not_3_a_relay_waits_for_a_server_that_is_away"),
        rust("outbox_postgres::setup::a_server_that_does_not_answer_is_given_up_in_time"),
        rust("lease_zookeeper::a_server_that_is_away_or_no_server_is_said_so"),
    ),
    proved(
        "a wrong or missing password",
        "exit code 2; no error, log or process list shows it",
        e2e("test_secured_postgres.py::test_a_wrong_password_is_told_and_never_shown"),
        e2e("test_secured_postgres.py::test_a_missing_password_is_asked_for"),
        e2e("test_secured_kafka.py::test_what_is_missing_or_wrong_is_named"),
        e2e("test_secured_zookeeper.py::test_what_is_missing_or_wrong_is_named"),
        rust("outbox_postgres::setup::no_error_shows_a_password"),
        unit("config::tests::no_password_is_ever_shown"),
    ),
    proved(
        "a bad CA, or a certificate for another host",
        "exit code 2",
        e2e("test_secured_postgres.py::test_another_authority_is_not_believed"),
        e2e(
            "test_secured_postgres.py::"
            "test_a_certificate_for_another_host_is_refused_by_verify_full_alone"
        ),
        e2e("test_secured_kafka.py::test_what_is_missing_or_wrong_is_named"),
        e2e("test_secured_zookeeper.py::test_what_is_missing_or_wrong_is_named"),
    ),
    proved(
        "a panic inside",
        "FailedError, with what it said; none reaches Python as one",
        unit("python::error::tests::a_panic_becomes_an_error_that_says_what_it_said"),
        says=["Onecommit has a defect, please report it: …"],
    ),
    proved(
        "an error of Rust in Python",
        "an exception of Onecommit with the cause behind it, also after pickling",
        python("test_errors.py::test_an_error_of_rust_keeps_its_causes"),
        python("test_errors.py::test_pickling_keeps_everything"),
    ),
]
