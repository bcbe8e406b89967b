"""Stub of src/python/group.rs: membership in a group."""

from typing import TypeAlias, final

__all__ = ["Group"]

_View: TypeAlias = tuple[str | None, list[tuple[str, str, bytes]]]
"""Which member this one is, None where it may be none; each one's id, name and data."""

@final
class Group:
    def view(self) -> _View: ...
    def changed(self, limit_ms: int) -> _View | None: ...
    def say(self, data: bytes) -> None: ...
    def leave(self) -> None: ...
