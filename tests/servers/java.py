"""The command line that runs a Java server so that a killed one leaves no file behind.

Java otherwise keeps performance counters and unpacked native libraries in /tmp, which only an
orderly end removes. Relies on Java 17 or newer.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from .process import ServerError

# The quickest start, for what runs for seconds, or beside many others on few cores.
QUICK = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")


def java(jars: Path, folder: Path, heap: str, options: Sequence[str], main_class: str) -> list[str]:
    """The command up to the main class; its arguments follow."""
    program = shutil.which("java")
    if program is None:
        raise ServerError("java is missing; install it, as in: apt-get install openjdk-17-jre")
    scratch = folder / "tmp"
    scratch.mkdir(exist_ok=True)
    return [
        program,
        f"-Xmx{heap}",
        "-XX:-UsePerfData",
        f"-Djava.io.tmpdir={scratch}",
        *options,
        "-cp",
        f"{jars}/*",
        main_class,
    ]
