"""Follows a document as somebody does who types it: saves its files, runs its commands in one
terminal, and compares what they print with what the document shows.

- A block whose first line is `# NAME` is saved as that file.
- `sh` is run in the terminal; `python` that is no file is run there, too; `sql` in the database.
- `text` is what the command before it prints. Ids, epochs, seconds and snapshots differ from run
  to run.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onecommit
import psycopg

from tests.e2e.waiting import LIMIT_S, wait_until
from tests.servers.process import Process

from .document import Block

LIMIT_MS = int(LIMIT_S * 1000)
# Changes by itself, until the relay has done what there was to do.
LOOK = "onecommit status\n"
# The document's commands are run once each, and the machine may stand still meanwhile.
PATIENCE = {
    "ONECOMMIT_COORDINATOR__REQUEST_TIMEOUT_MS": "60000",
    "ONECOMMIT_RELAY__REQUEST_TIMEOUT_MS": "60000",
    "ONECOMMIT_RELAY__LEASE_TIMEOUT_MS": "60000",
}
VARYING = re.compile(
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d+\.\d(?= s;)|(?<=epoch )\d+|\d+:\d+:[\d,]*"
)


class Follower:
    """Somebody in a folder of their own, with a terminal and a database."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.folder = folder
        self.database_url = database_url
        self._count = 0
        self._printed = folder / "terminal.out"
        self._errors = folder / "terminal.err"
        self._printed.touch()
        keyboard = folder / "keyboard"
        os.mkfifo(keyboard)
        scripts = sysconfig.get_path("scripts")
        # What `pip install` is to bring is here already: nothing may come from elsewhere.
        path = f"{scripts}{os.pathsep}{os.environ['PATH']}"
        own = {"PATH": path, "PIP_NO_INDEX": "1", **PATIENCE}
        command = ["bash", "-e", "-o", "pipefail", str(keyboard)]
        self._shell = Process(command, log=self._errors, environment={**os.environ, **own})
        self._keyboard = keyboard.open("w")
        self._type(f"cd {shlex.quote(str(folder))}; exec > {self._printed.name}")

    def follow(self, found: Iterable[Block]) -> None:
        """Does what the blocks say, one after the other."""
        typed = printed = ""
        for block in found:
            if block.file_name is not None:
                (self.folder / block.file_name).write_text(block.text)
            elif block.language == "text":
                self._expect(block.text, typed, printed)
            elif block.language == "sql":
                self.sql(block.text)
            else:
                typed = block.text
                printed = self.run(block)

    def run(self, block: Block) -> str:
        """Runs a block in the terminal; what it prints, log lines apart."""
        self._count += 1
        file = self.folder / f"block-{self._count}.{block.language}"
        file.write_text(block.text)
        begun = self._printed.stat().st_size
        end = f"END-{self._count}\n"
        run = {"sh": ".", "python": sys.executable}[block.language]
        self._type(f"{run} ./{file.name} < /dev/null; echo {end.strip()}")

        def ended() -> str | None:
            printed = self._printed.read_bytes()[begun:].decode()
            assert self._shell.poll() is None, f"{block.text}{self._seen()}"
            return printed if printed.endswith(end) else None

        return wait_until(ended, block.text, explain=self._seen).removesuffix(end)

    def sql(self, statements: str) -> list[tuple[Any, ...]]:
        """Runs SQL that opens and ends its transactions itself; the rows of the first statement."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            done = connection.execute(statements.encode())
            return done.fetchall() if done.description else []

    def received(self, topic: str, count: int) -> list[onecommit.ReceivedMessage]:
        """The first `count` messages of a topic, waited for."""
        config = self.folder / "onecommit.toml"
        messages = onecommit.read(
            topic, config=config, from_beginning=True, limit=count, timeout_ms=LIMIT_MS
        )
        found = list(messages)
        assert len(found) == count, f"{found}{self._seen()}"
        return found

    def close(self) -> None:
        """Closes the terminal; everything that runs in it ends."""
        self._shell.end()
        self._keyboard.close()

    def _expect(self, shown: str, typed: str, printed: str) -> None:
        def is_shown(output: str) -> bool:
            return VARYING.sub("…", output) == VARYING.sub("…", shown)

        if typed == LOOK:
            look = Block("sh", LOOK)
            wait_until(lambda: is_shown(self.run(look)), shown, explain=self._seen)
        else:
            assert is_shown(printed), f"{shown}--- is not:\n{printed}{self._seen()}"

    def _type(self, line: str) -> None:
        self._keyboard.write(f"{line}\n")
        self._keyboard.flush()

    def _seen(self) -> str:
        return f"--- printed:\n{self._printed.read_text()}--- said:\n{self._errors.read_text()}"
