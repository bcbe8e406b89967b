"""Stub of src/python/group.rs: membership in a group."""

from concurrent.futures import Future
from typing import TypeAlias, final

from .lock import Wait

__all__ = ["Group"]

_View: TypeAlias = tuple[int, str | None, list[tuple[str, str, bytes]]]
"""Its number; which member this one is, None where it may be none; each one's id, name and data."""

@final
class Group:
    def view(self) -> _View: ...
    def changed(self, seen: int, limit_ms: int | None, future: Future[_View | None]) -> Wait: ...
    def say(self, data: bytes) -> None: ...
    def leave(self, future: Future[None]) -> None: ...
