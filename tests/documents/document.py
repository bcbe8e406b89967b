"""The code blocks of a document, and the addresses that tests put in the place of those in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = "README.md"
FIRST_USE = "## First real use: one PostgreSQL database and Kafka"
# Blocks come first: a comment in one looks like a heading.
BLOCK_OR_HEADING = re.compile(
    r"^```(?P<language>\w+)\n(?P<text>.*?)^```$|^(?P<heading>#+ [^\n]*)$", re.MULTILINE | re.DOTALL
)
FILE_NAME = re.compile(r"# ([\w-]+\.\w+)\n")


def places(database_url: str, kafka: str) -> dict[str, str]:
    """All that is changed in a document before it is followed: where the two servers are."""
    return {
        "app@127.0.0.1/orders": database_url.removeprefix("postgresql://"),
        "127.0.0.1:9092": kafka,
    }


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    language: str
    text: str

    @property
    def file_name(self) -> str | None:
        """The file that it is to be saved as: its first line is a comment that says so."""
        named = FILE_NAME.match(self.text)
        return named[1] if named else None


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


def blocks(name: str, heading: str, put: Mapping[str, str]) -> list[Block]:
    """The blocks of the document `name` below one heading, its own sub-headings included."""
    found, inside = [], False
    for match in BLOCK_OR_HEADING.finditer(text_of(name)):
        if match["heading"]:
            below = level_of(match["heading"]) > level_of(heading)
            inside = match["heading"] == heading or (inside and below)
        elif inside:
            found.append(Block(match["language"], replaced(match["text"], put)))
    assert found, f"{name} has no blocks below {heading!r}"
    return found


def level_of(heading: str) -> int:
    return len(heading.split()[0])


def replaced(text: str, put: Mapping[str, str]) -> str:
    for written, address in put.items():
        text = text.replace(written, address)
    return text


def python_of(found: list[Block]) -> str:
    """All the Python, as one program."""
    return "".join(block.text for block in found if block.language == "python")
