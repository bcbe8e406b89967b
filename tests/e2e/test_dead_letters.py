"""What can't be delivered is set aside with what waits behind it, and blocks nothing else."""

from __future__ import annotations

import json

from .command_line import CONFIGURATION, FAILED, RelayProcess
from .conftest import MakeInstallation
from .dead_letters import SMALL_BYTES, TOO_LARGE, SmallTopic
from .installation import PostgresInstallation
from .test_relay import commit, key_in
from .waiting import wait_until

SMALL = b"small"


def wait_passed_over(installation: PostgresInstallation, relay: RelayProcess) -> None:
    """Waits until what is set aside keeps no shard: it is recorded before Kafka knows how far its
    shard is, and a server that was late is noted there until the shard delivers again."""

    def is_passed_over() -> bool:
        shards = installation.command_line.status()
        seen = [(shard["last_error"], shard["backlog_messages"]) for shard in shards]
        return seen == [(None, 0), (None, 0)]

    wait_until(is_passed_over, "it is passed over", explain=relay.text)


def test_a_dead_letter_parks_its_key_and_nothing_else_until_it_is_retried(
    installation: PostgresInstallation,
) -> None:
    small = SmallTopic(installation)
    key, other = key_in(0), b"other-" + key_in(0)
    relay = installation.relay()
    before, dead, behind, beside, second = small.commit(
        (key, SMALL), (key, TOO_LARGE), (key, SMALL), (other, SMALL), (key, TOO_LARGE)
    )
    small.wait_delivered(before, beside)
    small.wait_dead(dead, waiting=2)
    later = small.commit((key, SMALL), (other, SMALL))
    small.wait_delivered(later[1])
    small.wait_dead(dead, waiting=3)
    wait_passed_over(installation, relay)
    letter = small.letters()[0]
    assert "too large" in letter["reason"].lower() and letter["key"] == key.decode(), letter
    shown = json.loads(installation.command_line.succeed("--json", "dead-letter", "show", dead))
    assert shown["message"]["value"] == TOO_LARGE.decode(), shown
    text = installation.command_line.succeed("status")
    assert "1 dead letters, 3 messages that wait" in text, text

    # The verdict stands whatever dies.
    relay.kill()
    relay = installation.relay()
    small.wait_delivered(*small.commit((other, SMALL)))
    small.wait_dead(dead, waiting=3)
    wait_until(lambda: installation.outbox.waiting_rows() == 4, "all but four are pruned")

    # Retried as it is, it fails again.
    def fails_again() -> bool:
        done = installation.command_line.reached("dead-letter", "retry", dead)
        assert done.returncode == FAILED, done
        return "failed again" in done.stdout

    wait_until(fails_again, "it is tried, and fails again", explain=relay.text)
    small.wait_dead(dead, waiting=3)

    small.raise_limit()
    assert small.see_to("retry", "--all") in ([dead], None)
    small.wait_delivered(behind, second, *later)
    assert small.letters() == []
    small.wait_delivered(*small.commit((key, SMALL)))
    installation.wait_pruned()
    relay.stop()
    small.check()


def test_a_discarded_message_is_gone_and_its_key_goes_on(
    installation: PostgresInstallation,
) -> None:
    small = SmallTopic(installation)
    relay = installation.relay()
    dead, behind, second, last = small.commit(
        (b"k", TOO_LARGE), (b"k", SMALL), (b"k", TOO_LARGE), (b"k", SMALL)
    )
    small.wait_dead(dead, waiting=3)
    done = installation.command_line.reached("dead-letter", "discard", dead)
    assert done.returncode == CONFIGURATION and "--yes" in done.stderr, done
    assert small.see_to("discard", dead, "--yes") in ([dead], None)
    small.wait_delivered(behind)
    # The next one that can't be delivered parks the key again.
    small.wait_dead(second, waiting=1)
    small.see_to("discard", "--topic", small.name, "--yes")
    small.wait_delivered(last)
    installation.wait_pruned()
    relay.stop()
    small.check(dead, second)


def test_policies_pass_and_stop(installation: PostgresInstallation) -> None:
    small = SmallTopic(installation)
    table = f'topics."{small.name}'
    installation.configure(other={f'{table}"': {"on_poison": "pass"}})
    relay = installation.relay()
    dead, behind = small.commit((b"k", TOO_LARGE), (b"k", SMALL))
    small.wait_delivered(behind)
    small.wait_dead(dead, waiting=0)
    relay.stop()

    installation.configure(other={f'{table}"': {"on_poison": "stop"}})
    relay = installation.relay()
    stops, waits = small.commit((b"k", TOO_LARGE), (b"k", SMALL))
    relay.wait_for("`on_poison` says that its topic's messages stop the shard")
    errors = [shard["last_error"] for shard in installation.command_line.status()]
    wait_until(
        lambda: any(
            stops in str(shard["last_error"]) for shard in installation.command_line.status()
        ),
        "the message in status",
        explain=lambda: str(errors),
    )
    small.wait_dead(dead, waiting=0)
    small.raise_limit()
    small.wait_delivered(stops, waits)
    small.see_to("retry", dead)
    small.wait_delivered(dead)
    relay.stop()
    report = small.report()
    assert report.counts() == {"out_of_order": 1}, f"`pass` lets later ones go first: {report}"


def test_records_that_the_broker_finds_invalid_are_named_by_it(
    installation: PostgresInstallation,
) -> None:
    """A compacted topic takes no message without a key."""
    small = SmallTopic(installation, {"cleanup.policy": "compact"})
    messages: list[tuple[bytes | None, bytes]] = [
        (None if number % 3 == 0 else b"k", str(number).encode()) for number in range(30)
    ]
    relay = installation.relay()
    ids = small.commit(*messages)
    dead = ids[::3]
    small.wait_delivered(*(one for one in ids if one not in dead))
    small.wait_dead(*dead, waiting=0)
    relay.stop()
    small.check(*dead)


def test_a_partition_that_is_not_there_and_a_row_written_by_hand_are_dead_letters(
    installation: PostgresInstallation,
) -> None:
    relay = installation.relay()
    with installation.postgres.connect() as connection:
        for topic, partition in [(installation.topic, 7), ("no topic/has this name", None)]:
            connection.execute(
                "insert into onecommit.outbox (topic, key, partition) values (%s, 'k', %s)",
                (topic, partition),
            )
    commit(installation, installation.topic, b"k2")
    small = SmallTopic(installation)
    wait_until(lambda: len(small.letters()) == 2, "two dead letters")
    reasons = " ".join(letter["reason"] for letter in small.letters())
    assert "no partition 7" in reasons and "only letters, digits" in reasons, reasons
    small.see_to("discard", "--all", "--yes")
    installation.wait_pruned()
    installation.finish(relay)


def test_a_batch_that_is_too_large_as_a_whole_has_no_dead_letter(
    installation: PostgresInstallation,
) -> None:
    """None of its messages is too large: they only have to be sent in smaller numbers."""
    small = SmallTopic(installation)
    ids = small.commit(*((b"k", b"y" * (SMALL_BYTES // 4)) for _ in range(40)))
    relay = installation.relay()
    small.wait_delivered(*ids)
    assert small.letters() == []
    relay.stop()
    small.check()


def test_what_may_be_set_aside_is_limited_and_the_shard_says_so(
    make_installation: MakeInstallation,
) -> None:
    installation = make_installation()
    installation.relay_settings["set_aside_max"] = 3
    installation.configure()
    installation.init()
    small = SmallTopic(installation)
    relay = installation.relay()
    key = key_in(0)
    ids = small.commit((key, TOO_LARGE), (key, SMALL), (key, SMALL))
    small.wait_dead(ids[0], waiting=2)
    one_more = small.commit((key, SMALL))
    relay.wait_for("messages would be set aside, and `set_aside_max` allows 3")
    commit(installation, installation.topic, key_in(1))
    small.see_to("discard", "--all", "--yes")
    small.wait_delivered(*ids[1:], *one_more)
    installation.wait_pruned()
    relay.stop()
    small.check(ids[0])


def test_what_is_asked_for_without_a_relay_is_done_by_the_next_one(
    installation: PostgresInstallation,
) -> None:
    small = SmallTopic(installation)
    relay = installation.relay()
    dead, behind = small.commit((b"k", TOO_LARGE), (b"k", SMALL))
    small.wait_dead(dead, waiting=1)
    relay.stop()
    small.raise_limit()
    ask = ["--json", "dead-letter", "retry", dead, "--wait-seconds", "0"]
    done = installation.command_line.reached(*ask)
    assert done.returncode == FAILED and len(json.loads(done.stdout)["pending"]) == 1, done
    assert small.letters()[0]["request"] == "retry"
    relay = installation.relay()
    small.wait_delivered(dead, behind)
    installation.wait_pruned()
    relay.stop()
    small.check()


def test_ids_that_are_no_dead_letters_are_refused(installation: PostgresInstallation) -> None:
    unknown = "00000000-0000-4000-8000-000000000000"
    for words in (["show", unknown], ["retry", unknown], ["discard", unknown, "--yes"]):
        done = installation.command_line.reached("dead-letter", *words)
        assert done.returncode == CONFIGURATION and unknown in done.stderr, done
    for words in (["show", "no-id"], ["retry"], ["list", "--participant", "nobody"]):
        done = installation.command_line.reached("dead-letter", *words)
        assert done.returncode == CONFIGURATION, words
