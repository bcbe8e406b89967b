"""Stub of src/python/lock.rs: locks and leadership that are held."""

from concurrent.futures import Future
from typing import final

__all__ = ["Held", "Wait"]

@final
class Wait:
    def cancel(self) -> None: ...

@final
class Held:
    @property
    def number(self) -> int: ...
    def is_held(self) -> bool: ...
    def lost(self, timeout_ms: int, future: Future[bool]) -> Wait: ...
    def release(self, future: Future[None]) -> None: ...
