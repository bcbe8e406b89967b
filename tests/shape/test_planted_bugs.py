"""The table of planted bugs fits the tree: each text to be replaced stands in its file once, and
each test that notices a bug is there. That it does notice takes builds: `make planted`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tests.planted.bug import KnownTest
from tests.planted.bugs import BUGS

ROOT = Path(__file__).resolve().parents[2]
AT_LEAST = 16
FOLDERS = {
    "unit": ROOT / "src",
    "model": ROOT / "tests" / "model",
    "rust": ROOT / "tests" / "rust",
}
RUST_TEST = r"#\[(?:tokio::)?test\b[^\]]*\]\s*(?:async )?fn {name}\("
PYTHON_TEST = r"^ *(?:async )?def {name}\("


def files(test: KnownTest) -> Iterator[Path]:
    """Where a test of Rust may stand, by the modules in its path."""
    modules = test.name.split("::")[:-1]
    for length in (len(modules), len(modules) - 1):
        stem = FOLDERS[test.kind].joinpath(*modules[:length])
        yield from (stem.with_suffix(".rs"), stem / "mod.rs")


def is_there(test: KnownTest) -> bool:
    name = test.name.rsplit("::")[-1]
    if test.kind != "e2e":
        wanted = RUST_TEST.format(name=re.escape(name))
        texts = [file.read_text() for file in files(test) if file.is_file()]
        return any(re.search(wanted, text) for text in texts)
    file, _, name = test.name.partition("::")
    function, _, parameter = name.rstrip("]").partition("[")
    text = (ROOT / file).read_text() if (ROOT / file).is_file() else ""
    wanted = PYTHON_TEST.format(name=re.escape(function))
    return bool(re.search(wanted, text, re.MULTILINE)) and f'"{parameter}"' in f'{text}""'


def test_names_are_unique_and_there_are_enough() -> None:
    names = [bug.name for bug in BUGS]
    assert len(set(names)) == len(names) >= AT_LEAST
    assert all(bug.rule.endswith(".") and bug.says and bug.edits for bug in BUGS)


def test_each_text_that_is_replaced_stands_in_its_file_once() -> None:
    wrong = []
    for bug in BUGS:
        for edit in bug.edits:
            times = (ROOT / edit.file).read_text().count(edit.old)
            if times != 1 or edit.old == edit.new:
                wrong.append(f"{bug.name}: {times} times in {edit.file}: {edit.old}")
    assert not wrong, "\n".join(wrong)


def test_each_test_that_notices_is_there() -> None:
    wrong = {f"{bug.name}: {bug.caught_by.name}" for bug in BUGS if not is_there(bug.caught_by)}
    assert not wrong, "\n".join(sorted(wrong))


def test_a_test_that_is_not_there_is_noticed() -> None:
    known = BUGS[0].caught_by
    assert is_there(known)
    assert not is_there(KnownTest(known.kind, f"{known.name}_any_more"))
    assert not is_there(KnownTest("e2e", "tests/e2e/test_refusals.py::test_nothing"))
