"""Stands at the address of a server that is away, so that a test knows how often it is tried."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from .waiting import wait_until


class ClosedDoor:
    """Turns everybody away at once."""

    def __init__(self, port: int) -> None:
        self._door = socket.create_server(("127.0.0.1", port))
        self._turned_away = 0
        self._answering = threading.Thread(target=self._answer)
        self._answering.start()

    def wait_for_tries(self, tries: int) -> None:
        """Waits until so many have come."""
        wait_until(lambda: self._turned_away >= tries, f"{tries} tries")

    def _answer(self) -> None:
        with contextlib.suppress(OSError):  # it is closed
            while True:
                self._door.accept()[0].close()
                self._turned_away += 1

    def close(self) -> None:
        """Gives the address back."""
        # What waits in `accept` hears of this, and not of a mere close.
        self._door.shutdown(socket.SHUT_RDWR)
        self._answering.join()
        self._door.close()


@contextlib.contextmanager
def closed_door(port: int) -> Iterator[ClosedDoor]:
    """A closed door for as long as the block runs."""
    with contextlib.closing(ClosedDoor(port)) as door:
        yield door
