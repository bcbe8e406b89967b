"""Who is cancelled while it joins a group, or waits for a lock, leaves nothing that others see."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import onecommit
import pytest
from onecommit import _waiting

from tests.e2e.waiting import LIMIT_S, wait_until

from .conftest import MODULE, init
from .two_databases import NAMES, TwoDatabases, with_zookeeper

Kind = Callable[[onecommit.AsyncOnecommit], AbstractAsyncContextManager[Any]]
KINDS: dict[str, Kind] = {
    "group": lambda oc: oc.group("a", member="ghost"),
    "lock": lambda oc: oc.lock("a", timeout=LIMIT_S),
    "leader": lambda oc: oc.leader("a", timeout=LIMIT_S),
}
FORGET = "delete from onecommit.coordinator where id = '00000000-0000-0000-0000-000000000000'"
TRIES = 40
"""How often each is cancelled at random."""
LEFT_LIMIT_S = 50.0
"""Sooner than a session with the store is taken for dead."""
SESSION_TIMEOUT_MS = 60_000


@pytest.fixture(params=["file", "zookeeper"])
def config(
    request: pytest.FixtureRequest, two_databases: TwoDatabases, tmp_path: Path
) -> Iterator[Path]:
    forget_numbers(two_databases)
    if request.param == "file":
        yield two_databases.config
        return
    server, chroot = os.environ["ONECOMMIT_TEST_ZOOKEEPER"], f"/cancelled-{uuid.uuid4().hex[:12]}"
    made = with_zookeeper(two_databases, tmp_path, server, chroot, SESSION_TIMEOUT_MS)
    init("--config", str(made))
    yield made
    forget_numbers(two_databases)


def forget_numbers(databases: TwoDatabases) -> None:
    """Of locks: those of a file and of ZooKeeper are not to be compared."""
    for name in NAMES:
        with databases.connect(name) as conn:
            conn.execute(FORGET.encode())


@pytest.fixture
async def oc(config: Path) -> AsyncIterator[onecommit.AsyncOnecommit]:
    async with onecommit.open_async(config) as opened:
        yield opened


@pytest.fixture
def futures(monkeypatch: pytest.MonkeyPatch) -> list[Future[Any]]:
    """What is waited for, in the order in which the waits began."""
    begun: list[Future[Any]] = []

    class Kept(Future[Any]):
        def __init__(self) -> None:
            super().__init__()
            begun.append(self)

    monkeypatch.setattr(_waiting, "Future", Kept)
    return begun


async def enter(block: AbstractAsyncContextManager[Any]) -> None:
    async with block:
        await asyncio.sleep(0)


async def cancelled(task: asyncio.Task[None], times: int) -> asyncio.CancelledError | None:
    """What is raised has to be kept: it keeps what the task had."""
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    try:
        await task
    except asyncio.CancelledError as error:
        return error
    return None


async def is_free(oc: onecommit.AsyncOnecommit, kind: Kind) -> None:
    """Nobody else is there any more, nor holds it."""
    async with kind(oc) as entered:
        if isinstance(entered, onecommit.AsyncGroup):
            view: onecommit.GroupView | None = entered.view()
            while view is not None and len(view.members) > 1:
                view = await entered.changed(LIMIT_S)
            assert view is not None, entered.view()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("times", [1, 2])
async def test_before_it_came(oc: onecommit.AsyncOnecommit, kind: Kind, times: int) -> None:
    task = asyncio.create_task(enter(kind(oc)))
    await asyncio.sleep(0)
    kept = await cancelled(task, times)
    assert kept is not None
    await is_free(oc, kind)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
async def test_when_it_had_just_come(
    oc: onecommit.AsyncOnecommit, kind: Kind, futures: list[Future[Any]]
) -> None:
    task = asyncio.create_task(enter(kind(oc)))
    await asyncio.sleep(0)
    # It comes while the loop does not look.
    wait_until(futures[-1].done, "it has come")
    kept = await cancelled(task, 1)
    assert kept is not None
    await is_free(oc, kind)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
async def test_at_any_moment(oc: onecommit.AsyncOnecommit, kind: Kind) -> None:
    kept: list[BaseException | None] = []
    for _ in range(TRIES):
        task = asyncio.create_task(enter(kind(oc)))
        end = time.monotonic() + random.choice([0.002, 0.01, 0.05]) * random.random()
        while time.monotonic() < end and not task.done():  # noqa: ASYNC110
            await asyncio.sleep(0)
        kept.append(await cancelled(task, random.choice([1, 2])))
        await is_free(oc, kind)


async def test_what_had_just_opened_is_closed(config: Path, futures: list[Future[Any]]) -> None:
    task = asyncio.create_task(onecommit.open_async(config).__aenter__())
    await asyncio.sleep(0)
    wait_until(futures[-1].done, "it has opened")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    def is_gone() -> bool:
        command = [*MODULE, "--config", str(config), "--json", "nodes"]
        told = subprocess.run(command, capture_output=True, check=True, text=True).stdout
        return bool(json.loads(told)["nodes"] == [])

    wait_until(is_gone, "nobody is there")


async def test_who_closes_behind_it_waits_until_it_has_left(
    config: Path, oc: onecommit.AsyncOnecommit
) -> None:
    async with oc.group("a", member="looks") as group:
        for _ in range(5):
            async with onecommit.open_async(config) as closed:
                task = asyncio.create_task(enter(closed.group("a", member="ghost")))
                await asyncio.sleep(0.02 * random.random())
                await cancelled(task, 1)
            view = group.view()
            while len(view.members) > 1:
                changed = await group.changed(LEFT_LIMIT_S)
                assert changed is not None, view
                view = changed
            assert [member.name for member in view.members] == ["looks"]


class CountedThreads(ThreadPoolExecutor):
    """Knows how often it was asked for a thread."""

    calls = 0

    def submit(self, *call: Any, **arguments: Any) -> Future[Any]:
        self.calls += 1
        return super().submit(*call, **arguments)


def in_the_loop(waits: list[Awaitable[Any]]) -> list[asyncio.Future[Any]]:
    return [asyncio.ensure_future(wait) for wait in waits]


async def test_opening_and_waiting_take_no_thread_of_the_loops(config: Path) -> None:
    threads = CountedThreads(1)
    asyncio.get_running_loop().set_default_executor(threads)
    async with onecommit.open_async(config) as oc:
        groups = [await oc.group(f"group {n}").__aenter__() for n in range(60)]
        waiting = in_the_loop([group.changed() for group in groups])
        await asyncio.to_thread(int)
        assert threads.calls == 1
        assert not any(one.done() for one in waiting)
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await asyncio.gather(*(group.__aexit__(None, None, None) for group in groups))
    assert threads.calls == 1


async def test_news_that_a_cancelled_wait_was_about_to_tell_is_told_to_the_next(
    config: Path, oc: onecommit.AsyncOnecommit, futures: list[Future[Any]]
) -> None:
    async with oc.group("a", member="waits") as group:
        (waiting,) = in_the_loop([group.changed()])
        await asyncio.sleep(0)
        told = futures[-1]
        # The loop does not look meanwhile, so it is told and not taken.
        with onecommit.open(config) as other, other.group("a", member="comes"):
            wait_until(told.done, "it is told")
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            view = await group.changed(LIMIT_S)
            assert view is not None
            assert [member.name for member in view.members] == ["waits", "comes"]
