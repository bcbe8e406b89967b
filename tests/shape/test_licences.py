"""Every crate that is compiled in has a licence that Apache-2.0 software can be shipped with."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ACCEPTED = {
    "0BSD",
    "Apache-2.0",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
}


def is_accepted(expression: str) -> bool:
    """Whether an SPDX expression can be met with accepted licences only."""
    expression = expression.replace("/", " OR ")
    tokens = re.findall(r"\(|\)|[^\s()]+", expression)
    words = []
    skip = False
    for token in tokens:
        if skip:
            skip = False
        elif token == "WITH":
            # An exception only adds permissions.
            skip = True
        elif token in {"(", ")"}:
            words.append(token)
        elif token in {"AND", "OR"}:
            words.append(token.lower())
        else:
            words.append(str(token.removesuffix("+") in ACCEPTED))
    # Nothing but and, or, parentheses, True and False is left.
    return bool(eval(" ".join(words), {"__builtins__": {}}))


def test_expressions_are_read_right() -> None:
    assert is_accepted("MIT OR GPL-3.0")
    assert is_accepted("(MIT OR Apache-2.0) AND Unicode-3.0")
    assert is_accepted("Apache-2.0 WITH LLVM-exception")
    assert not is_accepted("MIT AND GPL-3.0")
    assert not is_accepted("AGPL-3.0")


def test_every_dependency_has_an_accepted_licence() -> None:
    command = ["cargo", "metadata", "--format-version", "1", "--all-features", "--locked"]
    answer = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    packages = json.loads(answer)["packages"]
    assert len(packages) > 50
    wrong = [
        f"{package['name']} {package['version']}: {package['license']}"
        for package in packages
        if not is_accepted(package["license"] or "none")
    ]
    assert not wrong, "\n".join(wrong)
