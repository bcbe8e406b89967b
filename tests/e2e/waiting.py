"""Waiting for a condition, with a limit that only a broken program reaches."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

# Shared machines have been seen to stop writing to their disks for half a minute.
LIMIT_S = 120.0
# Of a command: larger than what it waits for itself, even where it asks several servers.
RUN_LIMIT_S = 3 * LIMIT_S
LOOK_EVERY_S = 0.02

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T | None],
    what: str,
    limit_s: float = LIMIT_S,
    explain: Callable[[], str] = lambda: "",
) -> T:
    """The first answer of `condition` that is true; `explain` adds to the error what was seen."""
    end = time.monotonic() + limit_s
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"after {limit_s:.0f} s still not: {what}\n{explain()}")
        time.sleep(LOOK_EVERY_S)
