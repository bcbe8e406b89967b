"""Stub of src/python/main.rs: the command line."""

from collections.abc import Sequence

__all__ = ["main"]

def main(arguments: Sequence[str]) -> int: ...
