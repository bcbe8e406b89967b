"""Transactions with a short deadline, which also holds for what comes before anything is tested."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, TypeVar

import onecommit

from tests.e2e.waiting import wait_until

T = TypeVar("T")
Reached: TypeAlias = Callable[[], None]


def until_reached(attempt: Callable[[Reached], T]) -> T:
    """What comes of the first attempt that says that it has reached what is tested: where the
    machine stood still, the deadline was over before, which is as it should be."""

    def made() -> tuple[T] | None:
        reached: list[bool] = []
        try:
            return (attempt(lambda: reached.append(True)),)
        except onecommit.UnreachableError:
            if reached:
                raise
            return None

    return wait_until(made, "a transaction has begun before its deadline")[0]
