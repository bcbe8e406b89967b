"""Health and metrics of a relay over HTTP, with real servers behind it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.servers import free_port

from .admin_client import Admin, watched_relay
from .command_line import CONFIGURATION, CommandLine
from .dead_letters import TOO_LARGE, SmallTopic
from .installation import Installation, PostgresInstallation, Table, embedded
from .tcp_proxy import TcpProxy
from .waiting import LIMIT_S, wait_until

MESSAGES = 300
# More than are served at the same time.
IDLE_CONNECTIONS = 40


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Installation]:
    """No server; `init` has run."""
    with closing(embedded(tmp_path)) as made:
        made.init()
        yield made


def test_metrics_count_what_is_delivered(installation: PostgresInstallation) -> None:
    relay, admin = watched_relay(installation)
    admin.wait_ready()
    installation.outbox.burst(installation.topic, MESSAGES)
    installation.wait_delivered()
    installation.wait_pruned()
    shards = installation.outbox.shards
    metrics = ["delivered_messages", "delivered_bytes", "pruned_messages", "commits", "errors"]
    names = [f"onecommit_{metric}_total" for metric in metrics]

    def counted() -> bool:
        found = admin.sums(*names, "onecommit_commit_duration_seconds_count")
        delivered, delivered_bytes, pruned, commits, errors, durations = found
        assert delivered <= MESSAGES and pruned <= MESSAGES, found
        # There is a birth record for each shard, and the messages.
        are_all = delivered == pruned == MESSAGES and commits > shards
        # What a request did that had no answer is not counted: on a busy machine there may be one.
        is_done = are_all or errors > 0
        return is_done and commits == durations and delivered_bytes >= delivered * 100

    wait_until(counted, "all is counted", explain=lambda: admin.get("/metrics")[1])
    admin.wait_sum("onecommit_backlog_messages", 0)
    admin.wait_sum("onecommit_lease_owned", shards)
    admin.wait_sum("onecommit_live_relays", 1)
    admin.wait_sum("onecommit_store_away", 0)
    assert min(admin.samples("onecommit_lease_epoch")) >= 1
    assert admin.samples("process_resident_memory_bytes")[0] > 1e6
    _, page = admin.get("/metrics")
    assert installation.topic not in page and "key-" not in page
    assert f'relay="{relay.id()}"' in page
    admin.wait_healthy()
    installation.finish(relay, at_least=MESSAGES)


def test_what_waits_and_why_is_seen(installation: PostgresInstallation) -> None:
    small = SmallTopic(installation)
    stops: dict[str, Table] = {f'topics."{small.name}"': {"on_poison": "stop"}}
    relay, admin = watched_relay(installation, stops)
    admin.wait_ready()
    small.commit(*((b"k", TOO_LARGE) for _ in range(5)))
    admin.wait_sum("onecommit_backlog_messages", 5)
    first = max(admin.samples("onecommit_oldest_undelivered_age_seconds"))
    assert first > 0
    wait_until(
        lambda: max(admin.samples("onecommit_oldest_undelivered_age_seconds")) > first, "it ages"
    )
    labels = {"store": "delivery", "kind": "invalid"}
    wait_until(lambda: sum(admin.samples("onecommit_errors_total", labels)) > 0, "an error")
    wait_until(lambda: sum(admin.samples("onecommit_commit_failures_total")) > 0, "a failure")
    # What keeps a shard is no reason for a probe.
    admin.wait_ready()
    relay.stop()


def test_what_is_set_aside_is_seen(installation: PostgresInstallation) -> None:
    small = SmallTopic(installation)
    relay, admin = watched_relay(installation)
    admin.wait_ready()  # who asks before it listens is refused
    small.commit((b"k", TOO_LARGE), (b"k", b"1"), (b"k", b"2"))
    installation.outbox.burst(f"{installation.name}.absent", 5)
    admin.wait_sum("onecommit_dead_letters", 1)
    admin.wait_sum("onecommit_set_aside_waiting_messages", 2 + 5)
    assert sum(admin.samples("onecommit_held_topics")) >= 1
    admin.wait_sum("onecommit_backlog_messages", 0)
    admin.wait_ready()
    relay.stop()


def test_a_database_that_is_away_is_told_without_its_password(
    installation: PostgresInstallation,
) -> None:
    there = urlsplit(installation.database_url)
    assert there.port is not None
    port = free_port()
    url = f"postgresql://postgres:verysecret@127.0.0.1:{port}{there.path}"
    table: Table = {"url": url, "outbox": True, "shards": installation.outbox.shards}
    with TcpProxy(port, there.port) as proxy:
        relay, admin = watched_relay(installation, {"participants.main": table})
        admin.wait_ready()
        proxy.cut()
        said = admin.wait_unready("outbox")
        assert said and "verysecret" not in admin.get("/readyz")[1] + relay.text()
        admin.wait_unready("leases")
        # A restart would not help.
        admin.wait_healthy()
        assert max(admin.samples("onecommit_store_away", {"store": "outbox"})) == 1
    with TcpProxy(port, there.port):
        admin.wait_ready()
        admin.wait_sum("onecommit_store_away_seconds", 0)
        relay.stop()


def test_an_idle_relay_notices_that_its_delivery_is_gone(local: Installation) -> None:
    relay, admin = watched_relay(local)
    admin.wait_ready()
    log = local.folder / "data" / "topics.db"
    log.rename(log.with_suffix(".moved"))
    admin.wait_unready("delivery", "the topic log is not there")
    log.with_suffix(".moved").rename(log)
    admin.wait_ready()
    relay.stop()


def test_a_relay_that_is_not_set_up_among_others_is_a_reason(local: Installation) -> None:
    other: Table = {"url": f"sqlite:///{local.folder / 'other.db'}", "outbox": True}
    relay, admin = watched_relay(local, {"participants.other": other})
    admin.wait_unready(None, "onecommit init")
    wait_until(lambda: 1 in admin.samples("onecommit_takes_part"), "the other one works")
    admin.wait_sum("onecommit_relay_ended", 1)
    relay.terminate()
    assert relay.wait() == 2


def test_an_address_that_is_taken_ends_the_relay_at_its_start(local: Installation) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        wrong = local.configure("taken.toml", {"admin": {"listen": address}})
        done = CommandLine(local.folder, wrong).run("relay")
    assert done.returncode == CONFIGURATION and address in done.stderr, done
    assert "another process" in done.stderr and "delivers" not in done.stderr, done
    wrong = local.configure("name.toml", {"admin": {"listen": "localhost:9090"}})
    done = CommandLine(local.folder, wrong).run("relay")
    assert done.returncode == CONFIGURATION and "127.0.0.1:9090" in done.stderr, done


def test_whoever_says_nothing_is_left_and_too_much_is_refused(local: Installation) -> None:
    relay, admin = watched_relay(local)
    admin.wait_ready()
    with ExitStack() as stack:
        for _ in range(IDLE_CONNECTIONS):
            stack.enter_context(socket.create_connection(("127.0.0.1", admin.port)))
        # Some of them hold every place until they are ended.
        admin.wait_healthy()
    assert raw(admin, b"GET /metrics HTTP/1.1\r\nhost: x\r\nbig: " + b"x" * 20_000).startswith(
        b"HTTP/1.1 431"
    )
    assert raw(admin, b"POST /metrics HTTP/1.1\r\nhost: x\r\n\r\n").startswith(b"HTTP/1.1 405")
    assert raw(admin, b"\x16\x03\x01 not http\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert admin.get("/")[0] == 404
    relay.stop()


def raw(admin: Admin, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", admin.port), timeout=LIMIT_S) as connection:
        connection.sendall(request)
        return connection.recv(1000)


def test_every_line_of_the_log_says_whose_relay_it_is(local: Installation) -> None:
    configuration = local.configure("json.toml")
    command_line = CommandLine(local.folder, configuration)
    with closing(command_line):
        relay = command_line.relay(words=("--json", "relay"))
        relay.wait_for('"delivers"')
        relay.stop()
        lines = [json.loads(line) for line in relay.text().splitlines()]
    assert len(lines) >= 2
    for line in lines:
        assert {"timestamp", "level", "message"} <= line.keys(), line
        assert line["span"]["participant"] == "main", line
