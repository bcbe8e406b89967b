"""Stub of src/python/node.rs: this process's part in transactions."""

from collections.abc import Sequence
from concurrent.futures import Future
from os import PathLike
from typing import final

from .group import Group
from .lock import Held, Wait
from .transaction import Dialogue

__all__ = ["Node"]

@final
class Node:
    @staticmethod
    def open(config: str | PathLike[str] | None, future: Future[Node]) -> Wait: ...
    def expect_own_process(self) -> None: ...
    def begin(
        self,
        participants: Sequence[str],
        isolation: str | None,
        ack: str,
        deadline_ms: int | None,
    ) -> Dialogue: ...
    def group(self, name: str, member: str, data: bytes, future: Future[Group]) -> None: ...
    def lock(
        self, name: str, leads: bool, timeout_ms: int | None, future: Future[Held]
    ) -> Wait: ...
    def close(self, future: Future[None]) -> None: ...
