"""Locks and elections whose session with ZooKeeper is lost, in a program of Python: it is told, and
never claims what another program holds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import onecommit
import pytest

from tests.servers.ports import free_port

from .installation import Installation, Servers, postgres_to_topic_log
from .tcp_proxy import NetworkFault, TcpProxy
from .waiting import LIMIT_S

SESSION_MS = 2000


class Shared:
    """One installation with ZooKeeper; a program whose way there can be cut, and another one."""

    def __init__(self, made: Installation, proxy: TcpProxy, servers: Servers) -> None:
        self.proxy = proxy
        self.other = made.configure("other.toml", zookeeper(servers.zookeeper))
        self.cut_off = made.configure("cut.toml", zookeeper(f"127.0.0.1:{proxy.port}"))

    def cut(self) -> None:
        self.proxy.cut()
        assert self.proxy.hits[NetworkFault.CUT] > 0


def zookeeper(address: str) -> dict[str, dict[str, str | int | bool]]:
    return {"zookeeper": {"servers": address, "session_timeout_ms": SESSION_MS}}


@pytest.fixture
def shared(servers: Servers, tmp_path: Path) -> Iterator[Shared]:
    host, _, port = servers.zookeeper.partition(",")[0].rpartition(":")
    assert host
    with ExitStack() as stack:
        made = postgres_to_topic_log(servers, tmp_path)
        stack.callback(made.close)
        made.zookeeper = servers.zookeeper
        made.configure()
        made.init()
        proxy = stack.enter_context(TcpProxy(free_port(), int(port)))
        yield Shared(made, proxy, servers)


def test_who_has_lost_the_session_is_told(shared: Shared) -> None:
    with onecommit.open(shared.cut_off) as mine, onecommit.open(shared.other) as others:
        for kind in ("lock", "leader"):
            lost = pytest.raises(onecommit.FencedError, match="it was lost")
            with lost, getattr(mine, kind)("billing") as held:
                assert held.is_held
                shared.cut()
                with getattr(others, kind)("billing", timeout=LIMIT_S) as next_one:
                    assert not held.is_held, "two claim it"
                    assert next_one.is_held and next_one.number > held.number
                assert held.wait_lost(LIMIT_S)
            shared.proxy.mend()
            with getattr(mine, kind)("billing", timeout=LIMIT_S) as again:
                assert again.is_held and not held.is_held


async def test_who_has_lost_the_session_is_told_in_asyncio(shared: Shared) -> None:
    async with (
        onecommit.open_async(shared.cut_off) as mine,
        onecommit.open_async(shared.other) as others,
    ):
        for kind in ("lock", "leader"):
            with pytest.raises(onecommit.FencedError, match="it was lost"):
                async with getattr(mine, kind)("billing") as held:
                    told = asyncio.create_task(held.wait_lost(LIMIT_S))
                    shared.cut()
                    async with getattr(others, kind)("billing", timeout=LIMIT_S) as next_one:
                        assert not held.is_held, "two claim it"
                        assert next_one.number > held.number
                    assert await told
            shared.proxy.mend()
            async with getattr(mine, kind)("billing", timeout=LIMIT_S) as again:
                assert again.is_held
