"""Waiting for what is done in Rust: blocking callers and asyncio wait for the same futures.

Whoever gives up, by Ctrl-C or because a task is cancelled, leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from ._native.lock import Wait

T = TypeVar("T")


def wait(begin: Callable[[Future[T]], Wait | None], undo: Callable[[T], object] | None = None) -> T:
    """Waits for what is begun; Ctrl-C, or what a signal's handler raises, gives it up."""
    future: Future[T] = Future()
    waiting: Wait | None = None
    try:
        waiting = begin(future)
        return future.result()
    except BaseException:
        _give_up(future, waiting, undo)
        raise


async def wait_async(
    begin: Callable[[Future[T]], Wait | None], undo: Callable[[T], object] | None = None
) -> T:
    """Waits for what is begun; a cancelled task gives it up."""
    import asyncio

    future: Future[T] = Future()
    waiting: Wait | None = None
    try:
        waiting = begin(future)
        return await asyncio.wrap_future(future)
    except BaseException:
        _give_up(future, waiting, undo)
        raise


def begun(begin: Callable[[Future[T]], object]) -> Future[T]:
    """What is told of the end of what is begun, for whoever may not wait for it."""
    future: Future[T] = Future()
    begin(future)
    return future


def _give_up(future: Future[T], waiting: Wait | None, undo: Callable[[T], object] | None) -> None:
    """What had come already, and nobody takes any more, is undone; it would be held unseen."""
    if waiting is not None:
        waiting.cancel()
    is_done = not future.cancel()
    if undo is not None and is_done and future.exception() is None:
        undo(future.result())
