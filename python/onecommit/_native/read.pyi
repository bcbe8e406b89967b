"""Stub of src/python/read.rs: reading committed messages."""

from os import PathLike
from typing import TypeAlias, final

__all__ = ["Reader"]

_Parts: TypeAlias = tuple[
    str, int, int, int, bytes | None, bytes | None, list[tuple[str, bytes | None]]
]

@final
class Reader:
    def __new__(
        cls,
        topic: str,
        config: str | PathLike[str] | None,
        group: str | None,
        from_beginning: bool,
    ) -> Reader: ...
    def expect_own_process(self) -> None: ...
    def next(self, timeout_ms: int | None) -> _Parts | None: ...
    def commit(self) -> None: ...
    def close(self) -> None: ...
