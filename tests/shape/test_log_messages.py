"""The lines of the log that docs/operation.md lists are said somewhere in the sources."""

from __future__ import annotations

import re

from .test_floors import ROOT, SRC, without_tests

DOCUMENT = ROOT / "docs" / "operation.md"
CONTINUED = re.compile(r"\\\n\s*")


def messages() -> list[str]:
    """What the first column of the table of messages quotes."""
    table = DOCUMENT.read_text().split("| message | when |\n")[1].split("\n\n")[0]
    said = [line.split(" | ")[0] for line in table.splitlines()[1:]]
    return [quote for cell in said for quote in re.findall(r"`(.+?)`", cell)]


def test_every_message_is_one_of_the_sources() -> None:
    source = "\n".join(
        CONTINUED.sub("", without_tests(file.read_text())) for file in SRC.rglob("*.rs")
    )
    found = messages()
    assert len(found) > 10
    unknown = [text for text in found if f'"{text}"' not in source]
    assert not unknown, f"nothing in the sources says: {unknown}"
