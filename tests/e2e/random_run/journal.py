"""What happened in a run, and when: printed as it happens, and part of a failure."""

from __future__ import annotations

import threading
import time
from collections import Counter

LAST = 60


class Journal:
    """Notes from all threads of one run."""

    def __init__(self) -> None:
        self.happened: Counter[str] = Counter()
        self._begin = time.monotonic()
        self._lines: list[str] = []
        self._lock = threading.Lock()

    def note(self, text: str) -> None:
        with self._lock:
            line = f"{time.monotonic() - self._begin:7.1f} s  {text}"
            self._lines.append(line)
            print(line, flush=True)

    def count(self, kind: str, by: int = 1) -> None:
        """That something has happened, so that a run can prove that it did."""
        with self._lock:
            self.happened[kind] += by

    def tail(self) -> str:
        with self._lock:
            return "\n".join(self._lines[-LAST:])
