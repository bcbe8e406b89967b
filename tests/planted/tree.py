"""A copy of the tree in which bugs are planted, with a target folder of its own.

Relies on cargo to compile a file again when it is younger than what was made of it: a file is
written only where its text changes. The target folder begins with what the real one has compiled
of other crates, so that librdkafka is not compiled twice; both stay for the next run.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .bug import Edit

ROOT = Path(__file__).resolve().parents[2]
PLANTED = ROOT / "target" / "planted"
TREE = PLANTED / "tree"
TARGET = PLANTED / "target"
# Of our own crate; what is compiled elsewhere has other names, and can't be used.
COMPILED = ("build", "deps", ".fingerprint")


class TreeError(RuntimeError):
    """The tree is not as the table of bugs says."""


def make() -> None:
    """Makes the copy, or brings it up to date."""
    known = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(known, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    files = {name for name in listed.split("\0") if name and (ROOT / name).is_file()}
    for name in files:
        _write(TREE / name, (ROOT / name).read_bytes())
    for left in [path for path in TREE.rglob("*") if path.is_file()]:
        if str(left.relative_to(TREE)) not in files and ".servers" not in left.parts:
            left.unlink()
    servers = TREE / ".servers"
    if not servers.is_symlink():
        (ROOT / ".servers").mkdir(exist_ok=True)
        servers.symlink_to(ROOT / ".servers")
    _seed()


def _seed() -> None:
    debug = TARGET / "debug"
    if debug.exists():
        return
    debug.mkdir(parents=True)
    found = [ROOT / "target" / "debug" / name for name in COMPILED]
    present = [str(path) for path in found if path.exists()]
    if present:
        subprocess.run(["cp", "-a", *present, str(debug)], check=True)


def _write(path: Path, contents: bytes) -> None:
    if path.is_file() and path.read_bytes() == contents:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(contents)
    path.chmod((ROOT / path.relative_to(TREE)).stat().st_mode)


@contextmanager
def planted(edits: Sequence[Edit]) -> Iterator[None]:
    """The edits are in the copy as long as the block lasts."""
    before: dict[Path, str] = {}
    try:
        for edit in edits:
            path = TREE / edit.file
            text = path.read_text()
            if text.count(edit.old) != 1:
                raise TreeError(f"{edit.file} has {text.count(edit.old)} times: {edit.old}")
            before.setdefault(path, text)
            path.write_text(text.replace(edit.old, edit.new))
        yield
    finally:
        for path, text in before.items():
            path.write_text(text)
