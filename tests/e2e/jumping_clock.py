"""A wall clock that jumps for the processes that are told to use it, and for nothing else; never
the system's. `jumping_clock.c` says how."""

from __future__ import annotations

import mmap
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
FORMAT = "=qQ"


def compiled(folder: Path) -> Path:
    """The library, made by the compiler that links the program."""
    library = folder / "jumping_clock.so"
    options = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["cc", *options, "-o", str(library), str(SOURCE), "-ldl"], check=True)
    return library


class JumpingClock:
    """One clock; processes with its environment go by it."""

    def __init__(self, library: Path, file: Path) -> None:
        file.write_bytes(bytes(struct.calcsize(FORMAT)))
        self.environment: Mapping[str, str] = {
            "LD_PRELOAD": str(library),
            "ONECOMMIT_TEST_CLOCK": str(file),
        }
        with file.open("r+b") as opened:
            self._shared = mmap.mmap(opened.fileno(), 0)

    def set(self, offset_s: int) -> None:
        """From now on it is so many seconds ahead of the system's; behind it where negative."""
        struct.pack_into("=q", self._shared, 0, offset_s)

    @property
    def reads(self) -> int:
        """How often it was read while it was not the system's."""
        reads: int = struct.unpack(FORMAT, self._shared)[1]
        return reads
