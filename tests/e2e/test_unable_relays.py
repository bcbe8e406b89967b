"""A relay that lives and can't deliver leaves the shards to those that can."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from tests.servers import Kafka
from tests.servers.ports import free_port

from .command_line import RelayProcess
from .conftest import MakeInstallation
from .installation import PostgresInstallation, Servers, Table
from .tcp_proxy import TcpProxy
from .test_relay import commit, key_in
from .waiting import wait_until

NOWHERE = "127.0.0.1:1"
# An unanswered request to Kafka ends after 15 s, and it takes a few of them.
LOSS_LIMIT_S = 240.0
LEAVES = "leaves its shards to other relays until it can deliver again"


def publish_to_both(installation: PostgresInstallation) -> None:
    commit(installation, installation.topic, key_in(0), key_in(1))


def relay_with(installation: PostgresInstallation, tables: dict[str, Table]) -> RelayProcess:
    other = installation.configure("other.toml", tables)
    return installation.command_line.relay(configuration=other)


def test_a_relay_that_can_not_reach_kafka_gets_no_share(installation: PostgresInstallation) -> None:
    first = installation.relay()
    installation.wait_shared(1)
    second = relay_with(installation, {"kafka": {"bootstrap.servers": NOWHERE}})
    second.wait_for("no broker answered")
    publish_to_both(installation)
    installation.wait_delivered()
    assert installation.wait_shared(1) == {first.id()}
    second.stop()
    third = installation.relay()
    assert installation.wait_shared(2) == {first.id(), third.id()}
    publish_to_both(installation)
    installation.finish(first, third, at_least=4)


def is_replaced(
    installation: PostgresInstallation, proxy: TcpProxy, behind_it: dict[str, Table]
) -> None:
    """The relay behind the proxy leaves when that is cut, and the other one delivers all."""
    first, second = relay_with(installation, behind_it), installation.relay()
    assert installation.wait_shared(2) == {first.id(), second.id()}
    publish_to_both(installation)
    installation.wait_delivered()
    proxy.cut()
    publish_to_both(installation)
    wait_until(lambda: LEAVES in first.text(), LEAVES, LOSS_LIMIT_S, explain=first.text)
    # It may have had all of them, in a moment in which the other one stood still.
    wait_until(lambda: installation.owners() == {second.id()}, "the other one has all shards")
    assert first.running
    publish_to_both(installation)
    installation.finish(second, first, at_least=6)


@pytest.fixture
def kafka_port() -> int:
    return free_port()


@pytest.fixture
def kafka(kafka_port: int) -> Iterator[Kafka]:
    """Clients find its brokers at a proxy's port, or unhindered at the internal address."""
    with Kafka(advertised_ports=[kafka_port]) as own:
        yield own


def test_an_owner_that_loses_kafka_is_replaced(
    kafka: Kafka, kafka_port: int, make_installation: MakeInstallation, servers: Servers
) -> None:
    made = make_installation(replace(servers, kafka=kafka.internal_address))
    made.init()
    with TcpProxy(kafka_port, kafka.brokers[0].port) as proxy:
        table: Table = {"bootstrap.servers": f"127.0.0.1:{kafka_port}"}
        is_replaced(made, proxy, {"kafka": table})


def test_an_owner_that_loses_the_database_is_replaced(make_installation: MakeInstallation) -> None:
    """Its leases are in ZooKeeper, so that it lives on."""
    made = make_installation(zookeeper=True)
    made.init()
    there = urlsplit(made.database_url)
    assert there.port is not None
    port = free_port()
    url = made.database_url.replace(f":{there.port}/", f":{port}/")
    with TcpProxy(port, there.port) as proxy:
        table: Table = {"url": url, "outbox": True, "shards": 2}
        is_replaced(made, proxy, {"participants.main": table})
