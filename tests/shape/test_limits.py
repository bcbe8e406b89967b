"""Files and functions stay small, names mean something, and nothing is skipped or left undone."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILE_LINES = 600
FUNCTION_LINES = 70
SOURCE_ENDINGS = {".rs", ".py", ".pyi", ".sql", ".sh"}
MEANINGLESS = {"utils", "util", "helpers", "helper", "manager", "common", "misc", "v2"}
RUST_FUNCTION = re.compile(
    r"^(\s*)(?:pub(?:\([^)]*\))?\s+)?(?:async\s+)?(?:unsafe\s+)?(?:extern\s+\"C\"\s+)?fn\s+(\w+)"
)
UNDONE = re.compile(
    r"todo!\(|unimplemented!\(|#\[ignore|pytest\.mark\.(?:skip|xfail)|pytest\.skip|unittest\.skip|\bXXX\b|\bFIXME\b"
)


def tracked() -> list[Path]:
    """Every source file that git knows or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    files = (ROOT / line for line in listed.splitlines())
    return [file for file in files if file.suffix in SOURCE_ENDINGS and file.is_file()]


def test_no_file_is_too_long() -> None:
    long = [file for file in tracked() if len(file.read_text().splitlines()) > FILE_LINES]
    assert not long, f"over {FILE_LINES} lines: {long}"


def test_functions_fit_on_a_screen() -> None:
    long = []
    for file in tracked():
        if file.suffix == ".rs":
            long += [
                f"{file.relative_to(ROOT)}: {name}, {lines} lines"
                for name, lines in long_functions(file)
            ]
    assert not long, "\n".join(long)


def long_functions(file: Path) -> list[tuple[str, int]]:
    """Functions over the limit: rustfmt ends each with a brace at its own indentation."""
    found, lines = [], file.read_text().splitlines()
    for start, line in enumerate(lines):
        match = RUST_FUNCTION.match(line)
        if not match or line.rstrip().endswith(";"):
            continue
        end = next(
            (
                n
                for n in range(start, len(lines))
                if lines[n] in {f"{match[1]}}}", f"{match[1]}}})"}
            ),
            start,
        )
        if end - start + 1 > FUNCTION_LINES:
            found.append((match[2], end - start + 1))
    return found


def test_names_say_something() -> None:
    wrong = [file for file in tracked() if MEANINGLESS & set(re.split(r"[_.\-/]", file.stem))]
    assert not wrong, wrong


def test_nothing_is_skipped_or_left_undone() -> None:
    wrong = []
    for file in tracked():
        if file == Path(__file__).resolve():
            continue
        for number, line in enumerate(file.read_text().splitlines(), start=1):
            if UNDONE.search(line):
                wrong.append(f"{file.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not wrong, "\n".join(wrong)


def test_every_module_opens_with_its_job() -> None:
    wrong = []
    for file in tracked():
        text = file.read_text().lstrip()
        opening = {".rs": "//!", ".py": '"""', ".sql": "--", ".pyi": '"""'}.get(file.suffix)
        empty = not text
        if opening and not empty and not text.startswith((opening, "#!")):
            wrong.append(str(file.relative_to(ROOT)))
    assert not wrong, "\n".join(wrong)
