"""Relays and servers that are killed, paused and cut off at random, under a load of all kinds.

`run` is what `make test` does for some seconds, and `make soak` for as long as it is told.
"""

from .run import run

__all__ = ["run"]
