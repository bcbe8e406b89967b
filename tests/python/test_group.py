"""Groups: who is there is known to all members, however one of them ends."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import onecommit
import pytest
from onecommit import AsyncGroup, Group, GroupView, InvalidError, UnreachableError

from tests.e2e.tcp_proxy import TcpProxy
from tests.e2e.waiting import LIMIT_S, wait_until
from tests.servers import free_port

from .conftest import init
from .two_databases import TwoDatabases, with_zookeeper

# Of whom is to be taken for dead.
SHORT_SESSION_MS = 10_000
PROGRAM = """
import onecommit, sys
with onecommit.open(sys.argv[1]) as oc, oc.group("workers", member="other", data=b"x") as group:
    print(group.view().me.id, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def chroot() -> str:
    return f"/group-{uuid.uuid4().hex[:12]}"


@pytest.fixture(params=["file", "zookeeper"])
def config(
    request: pytest.FixtureRequest, two_databases: TwoDatabases, tmp_path: Path, chroot: str
) -> Path:
    """Where groups are kept in each of the places where they may be."""
    if request.param == "file":
        return two_databases.config
    made = with_zookeeper(two_databases, tmp_path, os.environ["ONECOMMIT_TEST_ZOOKEEPER"], chroot)
    init("--config", str(made))
    return made


@pytest.fixture
def dies_soon(config: Path, two_databases: TwoDatabases, tmp_path: Path, chroot: str) -> Path:
    """The same for a program that is killed: it is taken for dead soon."""
    if config == two_databases.config:
        return config
    folder = tmp_path / "dies soon"
    folder.mkdir()
    server = os.environ["ONECOMMIT_TEST_ZOOKEEPER"]
    return with_zookeeper(two_databases, folder, server, chroot, SHORT_SESSION_MS)


def wait_view(group: Group, is_as_expected: Callable[[GroupView], bool], what: str) -> GroupView:
    """Is told until it is as expected; nobody asks anew."""
    view = group.view()
    while not is_as_expected(view):
        told = group.changed(LIMIT_S)
        assert told is not None, f"never told that {what}: {view}"
        view = told
    return view


async def told(group: AsyncGroup, is_as_expected: Callable[[GroupView], bool]) -> GroupView:
    """The same for asyncio."""
    view: GroupView | None = group.view()
    while view is not None and not is_as_expected(view):
        view = await group.changed(LIMIT_S)
    assert view is not None, f"never told: {group.view()}"
    return view


def names(view: GroupView) -> list[str]:
    return [member.name for member in view.members]


def test_members_are_told_who_comes_changes_and_goes(config: Path, dies_soon: Path) -> None:
    with onecommit.open(config) as oc, oc.group("workers", member="one", data=b"1") as one:
        view = one.view()
        assert view.me is not None and view.members == (view.me,)
        assert (view.me.name, view.me.data) == ("one", b"1")
        assert one.changed(0) is None
        with oc.group("others", member="elsewhere") as elsewhere:
            assert names(elsewhere.view()) == ["elsewhere"]
        command = [sys.executable, "-c", PROGRAM, str(dies_soon)]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
            assert process.stdout is not None
            other = process.stdout.readline().strip()
            view = wait_view(one, lambda view: len(view.members) == 2, "another one is there")
            assert names(view) == ["one", "other"], "in the order of joining"
            assert (view.members[1].id, view.members[1].data) == (other, b"x")
            process.kill()
        wait_view(one, lambda view: names(view) == ["one"], "it is dead")
        with oc.group("workers", member="two") as two:
            wait_view(one, lambda view: names(view) == ["one", "two"], "the next one is there")
            two.say(b"busy")
            wait_view(one, lambda view: view.members[1].data == b"busy", "it says so")
        wait_view(one, lambda view: names(view) == ["one"], "it has left")


async def test_the_same_with_asyncio(config: Path) -> None:
    async with (
        onecommit.open_async(config) as oc,
        oc.group("workers", member="one") as one,
    ):
        waiting = asyncio.create_task(told(one, lambda view: names(view) == ["one", "two"]))
        async with oc.group("workers", member="two"):
            await waiting
            waiting = asyncio.create_task(told(one, lambda view: names(view) == ["one"]))
        await waiting
        cancelled = asyncio.create_task(one.changed())
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert await one.changed(0) is None


@pytest.fixture
def proxy() -> TcpProxy:
    server = int(os.environ["ONECOMMIT_TEST_ZOOKEEPER"].rsplit(":", 1)[1])
    return TcpProxy(free_port(), server)


@pytest.fixture
def ways(
    two_databases: TwoDatabases, tmp_path: Path, chroot: str, proxy: TcpProxy
) -> tuple[Path, Path]:
    """To the server, and to it through the proxy, where a session soon ends."""
    server = os.environ["ONECOMMIT_TEST_ZOOKEEPER"]
    direct = with_zookeeper(two_databases, tmp_path, server, chroot)
    init("--config", str(direct))
    through = f"127.0.0.1:{proxy.port}"
    return direct, with_zookeeper(two_databases, tmp_path, through, chroot, SHORT_SESSION_MS)


def test_who_loses_its_session_is_told_and_joins_again(
    ways: tuple[Path, Path], proxy: TcpProxy
) -> None:
    direct, through = ways
    with (
        onecommit.open(direct) as oc,
        oc.group("workers", member="stays") as stays,
        onecommit.open(through) as cut_off,
        cut_off.group("workers", member="cut off") as loses,
    ):
        first = wait_view(loses, lambda view: view.me is not None, "it is a member").me
        assert first is not None
        wait_view(stays, lambda view: len(view.members) == 2, "both are there")
        proxy.cut()
        view = wait_view(loses, lambda view: view.me is None, "it may be no member any more")
        assert "stays" in names(view), "as they were seen last"
        wait_view(stays, lambda view: names(view) == ["stays"], "its session has ended")
        proxy.mend()
        view = wait_view(loses, lambda view: view.me is not None, "it is a member again")
        assert view.me is not None and view.me.id != first.id, "another one"
        view = wait_view(stays, lambda view: len(view.members) == 2, "it is there again")
        assert view.members[1].id != first.id
    assert sum(proxy.hits.values()) > 0, "the cut has hit"


async def test_who_loses_its_session_is_told_in_asyncio(
    ways: tuple[Path, Path], proxy: TcpProxy
) -> None:
    direct, through = ways

    async with (
        onecommit.open_async(direct) as oc,
        oc.group("workers", member="stays") as stays,
        onecommit.open_async(through) as cut_off,
        cut_off.group("workers", member="cut off") as loses,
    ):
        first = (await told(loses, lambda view: view.me is not None)).me
        assert first is not None
        await told(stays, lambda view: len(view.members) == 2)
        losing = asyncio.create_task(told(loses, lambda view: view.me is None))
        proxy.cut()
        await losing
        await told(stays, lambda view: names(view) == ["stays"])
        proxy.mend()
        view = await told(loses, lambda view: view.me is not None)
        assert view.me is not None and view.me.id != first.id, "another one"
    assert sum(proxy.hits.values()) > 0, "the cut has hit"


def test_what_cannot_be_joined_is_said(config: Path) -> None:
    closed = onecommit.open(config)
    with pytest.raises(InvalidError, match="it is not open"), closed.group("a"):
        pass
    with onecommit.open(config) as oc:
        for name in ("", "x" * 201):
            with pytest.raises(InvalidError, match="1 to 200 bytes"), oc.group(name):
                pass
        with pytest.raises(InvalidError, match="16384 bytes"), oc.group("a", data=b"x" * 16385):
            pass
        with pytest.raises(InvalidError, match="200 bytes"), oc.group("a", member="x" * 201):
            pass
        group = oc.group("a", data=b"x" * 16384)
        with pytest.raises(InvalidError, match="inside of its `with` block"):
            group.view()
        with group, pytest.raises(InvalidError, match="has joined already"), group:
            pass
        left = oc.group("a")
        with left:
            pass
        with pytest.raises(InvalidError, match="inside of its `with` block"):
            left.changed(0)
        outlives = oc.group("a")
        outlives.__enter__()
    with pytest.raises(InvalidError, match="was closed"):
        wait_until(lambda: outlives.changed(1) and False, "it is told that it is over")
    outlives.__exit__(None, None, None)


def test_a_zookeeper_that_is_away_keeps_nobody_from_opening(
    two_databases: TwoDatabases, tmp_path: Path, chroot: str
) -> None:
    away = with_zookeeper(two_databases, tmp_path, "127.0.0.1:1", chroot, 2000)
    with onecommit.open(away) as oc:
        with pytest.raises(UnreachableError, match="ZooKeeper does not answer"), oc.group("a"):
            pass
        with closing(two_databases.connect("orders")) as orders, oc.transaction(orders=orders):
            orders.execute("update orders set paid = true where id = 42")
