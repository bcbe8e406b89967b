"""Each fault of the network between the relay and each server, with writers at work.

The one relay is neither restarted nor helped: when the fault is over it goes on, and everything was
delivered once and in order. Writers and the judge reach the servers past the proxies.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Literal
from urllib.parse import urlsplit

import pytest

from tests.servers import Kafka, free_port

from .conftest import MakeInstallation
from .installation import PostgresInstallation, Servers, Table
from .tcp_proxy import NetworkFault, TcpProxy
from .test_servers_fail import (
    LEASES_AWAY,
    LEASES_KEPT,
    SHARD_AWAY,
    SHARD_DELIVERS,
    SOME,
    wait_more_committed,
    wait_said,
    wait_some_delivered,
)
from .waiting import wait_until

# PostgreSQL alone keeps the leases too.
Server = Literal["postgres", "kafka", "zookeeper"]
# Faults that end soon are met in the middle of whatever is under way, and each time elsewhere.
SHORT_ROUNDS = 4
MANY_PIECES = 100
# What the relay says when it misses a server, and when it has it again.
SAYS: dict[Server, tuple[str, str]] = {
    "postgres": (LEASES_AWAY, LEASES_KEPT),
    "kafka": (SHARD_AWAY, SHARD_DELIVERS),
    "zookeeper": (LEASES_AWAY, LEASES_KEPT),
}


@pytest.fixture(scope="module")
def kafka_behind() -> Iterator[tuple[Kafka, TcpProxy]]:
    """One for all cases: its clients find it at the proxy, or unhindered at the other address."""
    port = free_port()
    with (
        Kafka(advertised_ports=[port]) as kafka,
        TcpProxy(port, kafka.brokers[0].port) as proxy,
    ):
        yield kafka, proxy


def proxied(installation: PostgresInstallation, proxies: dict[Server, TcpProxy]) -> None:
    """Leads relays that are started from now on to the proxies."""
    there = urlsplit(installation.database_url)
    url = installation.database_url.replace(f":{there.port}/", f":{proxies['postgres'].port}/")
    tables: dict[str, Table] = {
        "participants.main": {"url": url, "outbox": True, "shards": installation.outbox.shards},
        # So that an answer that is lost is missed soon.
        "relay": {**installation.relay_settings, "request_timeout_ms": 2000},
        "kafka": {
            "bootstrap.servers": f"127.0.0.1:{proxies['kafka'].port}",
            "socket.timeout.ms": 2000,
            "reconnect.backoff.max.ms": 500,
        },
    }
    if "zookeeper" in proxies:
        servers = f"127.0.0.1:{proxies['zookeeper'].port}"
        tables["zookeeper"] = {"servers": servers, "session_timeout_ms": 1500}
    installation.configure(other=tables)


def proxy_to(stack: ExitStack, port: int) -> TcpProxy:
    return stack.enter_context(TcpProxy(free_port(), port))


@pytest.mark.parametrize("fault", list(NetworkFault))
@pytest.mark.parametrize("server", ["postgres", "kafka", "zookeeper"])
def test_a_relay_outlasts_it(
    server: Server,
    fault: NetworkFault,
    kafka_behind: tuple[Kafka, TcpProxy],
    make_installation: MakeInstallation,
    servers: Servers,
) -> None:
    kafka, kafka_proxy = kafka_behind
    given = replace(servers, kafka=kafka.internal_address)
    installation = make_installation(given, zookeeper=server == "zookeeper")
    installation.init()
    with ExitStack() as stack:
        postgres_port = urlsplit(installation.database_url).port
        assert postgres_port is not None
        proxies: dict[Server, TcpProxy] = {
            "postgres": proxy_to(stack, postgres_port),
            "kafka": kafka_proxy,
        }
        if server == "zookeeper":
            proxies["zookeeper"] = proxy_to(stack, int(servers.zookeeper.rpartition(":")[2]))
        proxied(installation, proxies)
        proxy, relay = proxies[server], installation.relay()
        with installation.postgres.writing(installation.topic) as writers:
            wait_some_delivered(installation)
            for _ in range(SHORT_ROUNDS):
                begin(proxy, fault)
                proxy.mend()
                wait_more_committed(writers)
            # Else it may still be away from the short ones, and has no leases to miss.
            installation.wait_delivered()
            begin(proxy, fault)
            if fault is NetworkFault.DELAY:
                wait_hits(proxy, fault, MANY_PIECES)
            else:
                wait_said(relay, *SAYS[server])
            wait_more_committed(writers)
            proxy.mend()
            if fault is not NetworkFault.DELAY:
                wait_said(relay, SAYS[server][1], SAYS[server][0])
        installation.finish(relay, at_least=SOME)


def begin(proxy: TcpProxy, fault: NetworkFault) -> None:
    """Begins a fault, and waits until it has hit."""
    hits = proxy.hits[fault]
    proxy.begin(fault)
    wait_hits(proxy, fault, hits + 1)


def wait_hits(proxy: TcpProxy, fault: NetworkFault, hits: int) -> None:
    wait_until(lambda: proxy.hits[fault] >= hits, f"{fault} hits {hits} times")
