"""Runs a command with a terminal at its standard error, as a person has it."""

from __future__ import annotations

import os
import pty
import subprocess
import threading
from pathlib import Path

from .waiting import RUN_LIMIT_S


def answered(command: list[str], folder: Path, answer: str) -> tuple[int, str, str]:
    """The same for a command that asks, at a terminal where a person has typed `answer`."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{answer}\n".encode())
        return on_a_terminal(command, folder, theirs)
    finally:
        os.close(theirs)
        os.close(ours)


def on_a_terminal(
    command: list[str], folder: Path, typed: int = subprocess.DEVNULL
) -> tuple[int, str, str]:
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
            command, cwd=folder, stdin=typed, stdout=subprocess.PIPE, stderr=theirs, text=True
        )
    finally:
        os.close(theirs)
    try:
        printed, _ = child.communicate(timeout=RUN_LIMIT_S)
    finally:
        child.kill()
        child.wait()
        reader.join()
        os.close(ours)
    shown = b"".join(pieces).decode()
    return child.returncode, printed, shown
