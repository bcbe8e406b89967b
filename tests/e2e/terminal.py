"""Runs a command with a terminal at its standard error, as a person has it."""

from __future__ import annotations

import os
import pty
import subprocess
import threading
from pathlib import Path

from .waiting import LIMIT_S


def on_a_terminal(command: list[str], folder: Path) -> tuple[int, str, str]:
    """A command's exit code, what it prints, and what a terminal at its standard error gets."""
    ours, theirs = pty.openpty()
    pieces: list[bytes] = []

    def read() -> None:
        try:
            while piece := os.read(ours, 65536):
                pieces.append(piece)
        except OSError:
            pass  # Linux says so when nobody has the terminal open any more

    reader = threading.Thread(target=read)
    reader.start()
    try:
        child = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=theirs, text=True
        )
    finally:
        os.close(theirs)
    try:
        printed, _ = child.communicate(timeout=LIMIT_S)
    finally:
        child.kill()
        child.wait()
        reader.join()
        os.close(ours)
    shown = b"".join(pieces).decode()
    return child.returncode, printed, shown
