"""Stub of src/python/sqlite.rs: the format of headers in a SQLite outbox."""

from collections.abc import Sequence

__all__ = ["encode_headers"]

def encode_headers(headers: Sequence[tuple[str, bytes | None]]) -> bytes | None: ...
