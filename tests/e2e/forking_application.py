"""An application that forks, run as a program with a configuration, what it is to do, and the urls
of its two databases. What its children were told it prints as JSON, a line for each.

A child that has not ended within the limit is killed, and its code is that of SIGKILL.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import select
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NoReturn

import onecommit
import psycopg

USES, LEAVES, LEADS, OPENS_AGAIN, OPENS_IN_CHILD = "uses", "leaves", "leads", "again", "in child"
CHILD_LIMIT_S = 60.0
EXIT_CODE = 7
CHANGES = ("update account set changes = changes + 1", "insert into payment values (100)")


def ended(child: int) -> int:
    """The exit code of a child, which is killed where it does not end."""
    handle = os.pidfd_open(child)
    if not select.select([handle], [], [], CHILD_LIMIT_S)[0]:
        os.kill(child, signal.SIGKILL)
    os.close(handle)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def say(what: str, said: object) -> None:
    print(json.dumps([what, said]), flush=True)


def try_in_child(what: str, act: Callable[[], object]) -> None:
    child = os.fork()
    if child == 0:
        try:
            say(what, act())
        except BaseException as error:
            say(what, f"{type(error).__name__}: {error}")
        os._exit(EXIT_CODE)
    code = ended(child)
    assert code == EXIT_CODE, f"{what}: the child has ended with {code}"


class Everything:
    """All that can be open in a process."""

    def __init__(self, stack: ExitStack, config: str, urls: list[str]) -> None:
        # Not closed in a child: that would end the parent's sessions.
        one, other = (psycopg.connect(url) for url in urls)
        self.oc = stack.enter_context(onecommit.open(config))
        self.lock = stack.enter_context(self.oc.lock("report"))
        self.leader = stack.enter_context(self.oc.leader("job"))
        self.group = stack.enter_context(self.oc.group("workers", member="parent"))
        self.tx = stack.enter_context(self.oc.transaction(main=one, billing=other))
        self.tx.lock("account")
        for connection, change in zip((one, other), CHANGES, strict=True):
            connection.execute(change.encode())

    def is_untouched(self) -> bool:
        view = self.group.view()
        return self.lock.is_held and self.leader.is_held and view.me in view.members

    def collect(self) -> str:
        for name in list(vars(self)):
            delattr(self, name)
        gc.collect()
        return "collected"


def acts(all_of_it: Everything, url: str) -> dict[str, Callable[[], Any]]:
    oc, lock, leader = all_of_it.oc, all_of_it.lock, all_of_it.leader
    group, tx = all_of_it.group, all_of_it.tx

    def held(one: onecommit.Lock) -> list[object]:
        return [one.is_held, one.wait_lost(CHILD_LIMIT_S), one.number]

    return {
        "held lock": lambda: held(lock),
        "held leader": lambda: held(leader),
        "lock": lambda: oc.lock("other").__enter__(),
        "leader": lambda: oc.leader("other").__enter__(),
        "group": lambda: oc.group("other").__enter__(),
        "transaction": lambda: oc.transaction(main=psycopg.connect(url)),
        "view": group.view,
        "changed": lambda: group.changed(0),
        "say": lambda: group.say(b"child"),
        "publish": lambda: tx.publish("topic", value=b"child"),
        "lock in transaction": lambda: tx.lock("other"),
        "commit": lambda: tx.__exit__(None, None, None),
        "release": lambda: lock.__exit__(None, None, None),
        "resign": lambda: leader.__exit__(None, None, None),
        "leave group": lambda: group.__exit__(None, None, None),
        "close": lambda: oc.__exit__(None, None, None),
        "garbage": all_of_it.collect,
    }


def use(config: str, urls: list[str]) -> None:
    with ExitStack() as stack:
        all_of_it = Everything(stack, config, urls)
        say("numbers", [all_of_it.lock.number, all_of_it.leader.number])
        for what, act in acts(all_of_it, urls[0]).items():
            try_in_child(what, act)
            assert all_of_it.is_untouched(), what
    say("parent", [all_of_it.tx.protocol, all_of_it.tx.applied])


def leave(config: str, urls: list[str], end: Callable[[], NoReturn]) -> int | None:
    """The child leaves all blocks by what `end` raises; returns its code in the parent."""
    with ExitStack() as stack:
        all_of_it = Everything(stack, config, urls)
        child = os.fork()
        if child == 0:
            end()
        code = ended(child)
        assert all_of_it.is_untouched()
    assert (all_of_it.tx.protocol, all_of_it.tx.applied) == ("two-phase", True)
    return code


def leave_both_ways(config: str, urls: list[str]) -> None:
    def fail() -> NoReturn:
        raise LookupError("the child's own")

    try:
        say("error", leave(config, urls, fail))
    except LookupError:
        os._exit(EXIT_CODE)
    # In a process of its own: it goes all the way out, as a program ends.
    say("exit", leave(config, urls, lambda: sys.exit(EXIT_CODE)))


def lead(config: str) -> None:
    with onecommit.open(config) as oc, oc.leader("job") as leader:
        child = os.fork()
        if child == 0:
            for _ in sys.stdin:
                say("held", [leader.is_held, leader.wait_lost(CHILD_LIMIT_S), leader.number])
            os._exit(0)
        # One line of both: two processes would mix theirs.
        say("leads", [leader.number, child])
        signal.pause()


def transact(config: str, urls: list[str]) -> str | None:
    one, other = (psycopg.connect(url) for url in urls)
    with onecommit.open(config) as oc, oc.lock("report"):
        with oc.transaction(main=one, billing=other) as tx:
            for connection, change in zip((one, other), CHANGES, strict=True):
                connection.execute(change.encode())
        return tx.protocol


async def open_async(config: str) -> None:
    async with onecommit.open_async(config):
        pass


def open_again(config: str, urls: list[str]) -> None:
    say("parent", transact(config, urls))
    try_in_child("closed before", lambda: transact(config, urls))
    with onecommit.open(config) as oc, oc.lock("report"):
        try_in_child("open", lambda: transact(config, urls))
        try_in_child("async", lambda: asyncio.run(open_async(config)))
    say("parent", transact(config, urls))


def open_in_child(config: str, urls: list[str]) -> None:
    for _ in range(2):
        try_in_child("child", lambda: transact(config, urls))
    say("parent", transact(config, urls))


def main(config: str, what: str, *urls: str) -> None:
    acts: dict[str, Callable[[], None]] = {
        USES: lambda: use(config, list(urls)),
        LEAVES: lambda: leave_both_ways(config, list(urls)),
        LEADS: lambda: lead(config),
        OPENS_AGAIN: lambda: open_again(config, list(urls)),
        OPENS_IN_CHILD: lambda: open_in_child(config, list(urls)),
    }
    acts[what]()


if __name__ == "__main__":
    main(*sys.argv[1:])
