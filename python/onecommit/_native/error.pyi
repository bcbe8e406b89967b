"""Stub of src/python/error.rs: the kinds of errors."""

from typing import Final

__all__ = ["RETRIABLE"]

RETRIABLE: Final[dict[str, bool]]
