"""Stub of src/python/message.rs: what is valid in a message."""

from collections.abc import Sequence

__all__ = ["check"]

def check(
    topic: str,
    key: bytes | None,
    value: bytes | None,
    headers: Sequence[tuple[str, bytes | None]],
    partition: int | None,
) -> None: ...
