"""Reading committed messages from the embedded topic log, where a relay has brought them."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import onecommit
import pytest
from onecommit import InvalidError, Message, Outbox

TOPIC = "account.changed"
# How long a message may take that is on its way: far longer than it does.
LIMIT_MS = 120_000


def publish(shop: Path, *messages: Message) -> list[onecommit.MessageId]:
    conn = sqlite3.connect(shop / "onecommit-data" / "main.db", timeout=120)
    with conn:
        ids = Outbox().publish_many(conn, messages)
    conn.close()
    return ids


def keys(messages: Any) -> list[bytes | None]:
    return [message.key for message in messages]


def test_all_parts_come_through(shop: Path) -> None:
    headers = [("a", b"\xff"), ("a", None)]
    published = publish(
        shop,
        Message(TOPIC, key="", value={"total": 100}, headers=headers),
        Message(TOPIC),
    )
    received = list(onecommit.read(TOPIC, from_beginning=True, limit=2, timeout_ms=LIMIT_MS))
    assert [message.id for message in received] == published
    assert [(one.topic, one.key, one.value) for one in received] == [
        (TOPIC, b"", b'{"total":100}'),
        (TOPIC, None, None),
    ]
    assert list(received[0].headers)[-2:] == headers or set(headers) <= set(received[0].headers)
    assert received[0].timestamp_ms > 1_500_000_000_000
    assert received[0].offset < received[1].offset


def test_without_a_group_it_begins_now(shop: Path) -> None:
    publish(shop, Message(TOPIC, key=1))
    assert keys(onecommit.read(TOPIC, from_beginning=True, limit=1)) == [b"1"]
    messages = onecommit.read(TOPIC, limit=1, timeout_ms=LIMIT_MS)
    publish(shop, Message(TOPIC, key=2))
    assert keys(messages) == [b"2"]
    assert keys(messages) == []


def test_a_group_goes_on_where_it_was(shop: Path) -> None:
    publish(shop, *(Message(TOPIC, key=n) for n in range(5)))

    def read(**limits: Any) -> onecommit.Messages:
        return onecommit.read(TOPIC, group="g", from_beginning=True, **limits)

    assert keys(read(limit=2, timeout_ms=LIMIT_MS)) == [b"0", b"1"]
    with read() as left_early:
        assert next(left_early).key == b"2"
    assert keys(read(limit=2, timeout_ms=LIMIT_MS)) == [b"2", b"3"]
    assert keys(read(timeout_ms=0)) == [b"4"]
    assert keys(read(timeout_ms=0)) == []


@pytest.mark.usefixtures("shop")
def test_it_ends_when_nothing_comes() -> None:
    assert keys(onecommit.read(TOPIC, from_beginning=True, timeout_ms=1)) == []
    assert keys(onecommit.read(TOPIC, from_beginning=True, limit=0)) == []


@pytest.mark.usefixtures("shop")
def test_a_closed_reader_is_at_its_end() -> None:
    messages = onecommit.read(TOPIC)
    messages.close()
    messages.close()
    assert keys(messages) == []


def test_other_threads_run_while_it_waits(shop: Path) -> None:
    received: list[bytes | None] = []
    messages = onecommit.read(TOPIC, limit=1)
    waiting = threading.Thread(target=lambda: received.extend(keys(messages)))
    waiting.start()
    publish(shop, Message(TOPIC, key=1))
    waiting.join()
    assert received == [b"1"]


def test_ctrl_c_ends_the_waiting(shop: Path) -> None:
    program = f"""if True:
        import onecommit
        try:
            messages = onecommit.read({TOPIC!r})
            print("waiting", flush=True)
            next(messages)
        except KeyboardInterrupt:
            print("interrupted")
    """
    command = [sys.executable, "-c", program]
    child = subprocess.Popen(command, cwd=shop, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "waiting\n"
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=120)[0] == "interrupted\n"


@pytest.mark.parametrize(
    "arguments", [{"limit": -1}, {"timeout_ms": -1}, {"timeout_ms": 2**64}, {"limit": 1.5}]
)
def test_numbers_that_make_no_sense(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidError, match="is an int that is 0 or more"):
        onecommit.read(TOPIC, **arguments)


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    absent = tmp_path / "absent.toml"
    with pytest.raises(onecommit.ConfigurationError, match=r"absent\.toml"):
        onecommit.read(TOPIC, config=absent)
