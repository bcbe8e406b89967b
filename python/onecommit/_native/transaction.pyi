"""Stub of src/python/transaction.rs: transactions over several databases."""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import TypeAlias, final

from .lock import Wait

__all__ = ["Dialogue"]

_Next: TypeAlias = list[tuple[int, str]] | tuple[str, bool] | tuple[()] | None
"""Messages to send; how it ended (empty: rolled back); or None: the caller's statements."""
_Answer: TypeAlias = list[str | None] | tuple[str | None, str]
"""A row; or a SQLSTATE (None: the connection is lost) and a text."""

@final
class Dialogue:
    @property
    def id(self) -> str: ...
    def expect_own_process(self) -> None: ...
    def publish(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
        partition: int | None,
        outbox: str | None,
    ) -> str: ...
    def lock(self, name: str, timeout_ms: int | None, future: Future[int]) -> Wait: ...
    def advance(
        self, answers: Sequence[_Answer] | None, future: Future[_Next]
    ) -> tuple[_Next] | None: ...
    def commit(self, future: Future[_Next]) -> tuple[_Next] | None: ...
    def roll_back(self, future: Future[_Next]) -> tuple[_Next] | None: ...
    def interrupt(self, future: Future[_Next]) -> tuple[_Next] | None: ...
    def seconds_left(self) -> float: ...
