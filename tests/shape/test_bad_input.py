"""The table of bad input fits the tree: each case has its test, and each test that it names is
there; what its errors say is what the product says."""

from __future__ import annotations

import re

from tests.bad_input import CASES

from .test_floors import ROOT, without_tests
from .test_planted_bugs import is_there
from .test_refusals import CONTINUED

# Two texts of Python that stand beside each other are one.
JOINED = re.compile(r'"\s*\n\s*f?"')


def product() -> str:
    """Every source of the product, with each text in one piece."""
    rust = (without_tests(file.read_text()) for file in sorted((ROOT / "src").rglob("*.rs")))
    python = (file.read_text() for file in sorted((ROOT / "python").rglob("*.py")))
    whole = [CONTINUED.sub("", text) for text in rust]
    return "\n".join([*whole, *(JOINED.sub("", text) for text in python)])


def test_names_are_unique_and_each_case_is_tried() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names) >= 60
    untried = [case.name for case in CASES if case.act is None and not case.tests]
    assert not untried, untried


def test_each_test_that_is_named_is_there() -> None:
    wrong = {
        f"{case.name}: {test.name}" for case in CASES for test in case.tests if not is_there(test)
    }
    assert not wrong, "\n".join(sorted(wrong))


def test_each_text_of_an_error_that_other_tests_meet_is_the_products() -> None:
    sources = product()
    wrong = []
    for case in CASES:
        for words in case.says if case.act is None else ():
            wanted = r"[^\n]+".join(map(re.escape, words.split("…")))
            if not re.search(wanted, sources):
                wrong.append(f"{case.name}: {words}")
    assert not wrong, "\n".join(wrong)
