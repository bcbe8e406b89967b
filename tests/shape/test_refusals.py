"""docs/refusals.md explains every refusal of the sources, and quotes none that is not there.

Reads the Rust sources as text: wherever `ErrorKind::Refused` is the first of several arguments, the
last argument with a text in it is the message. A name stands for the text of the nearest `let`
before it; a parameter for what the function's or closure's callers pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .test_floors import ROOT, SRC, without_tests

DOCUMENT = ROOT / "docs" / "refusals.md"
TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')
# A line of the source that goes on in the next one.
CONTINUED = re.compile(r"\\\n\s*")
CALLED = re.compile(r"\(\s*ErrorKind::Refused\s*,")
# Asked for, or listed among the kinds, and not made.
COMPARED = re.compile(
    r"[=!]= ErrorKind::Refused|ErrorKind::Refused (?:\||=>)|ErrorKind::\w+,\s+ErrorKind::Refused,"
)


def sources() -> Iterator[tuple[str, str]]:
    """Each source's path and text."""
    for file in sorted(SRC.rglob("*.rs")):
        yield str(file.relative_to(ROOT)), CONTINUED.sub("", without_tests(file.read_text()))


def refusals() -> set[str]:
    """Every message of a refusal."""
    found: set[str] = set()
    for file, source in sources():
        for call in CALLED.finditer(source):
            messages = list(meant(source, call.start(), file))
            assert messages, f"{file}: no message found behind {source[call.start() :][:200]}"
            found.update(messages)
    return found


def meant(source: str, opening: int, file: str) -> Iterator[str]:
    """The texts that the last argument of the call at `opening` can have."""
    last = arguments(source, opening)[-1]
    if texts := TEXT.findall(last):
        yield from texts[:1]
        return
    name = re.sub(r"\W.*", "", last)
    before = source[:opening]
    function = before.rfind("fn ")
    assigned = before.rfind(f"let {name} =", function)
    if assigned >= 0:
        yield from TEXT.findall(statement(source, assigned))
        return
    definition = re.search(
        rf"(?:fn|let) (\w+)(?:<[^>]*>)?(?: = )?[(|][^)|]*\b{name}\b[^;]*$", before[-400:]
    )
    assert definition, f"{file}: where does {name!r} come from?"
    for call in re.finditer(rf"(?<!fn )\b{definition[1]}(?=\()", source):
        yield from meant(source, call.end(), file)


def arguments(source: str, opening: int) -> list[str]:
    """The arguments in the parentheses that open there."""
    found, depth, begin = [], 0, opening + 1
    at = opening
    while at < len(source):
        if source[at] == '"':
            text = TEXT.match(source, at)
            assert text is not None
            at = text.end()
            continue
        depth += (source[at] in "([{") - (source[at] in ")]}")
        if depth == 0 or (depth == 1 and source[at] == ","):
            found.append(source[begin:at].strip())
            begin = at + 1
        if depth == 0:
            break
        at += 1
    return [argument for argument in found if argument]


def statement(source: str, begin: int) -> str:
    """The statement that begins there: to the first semicolon outside of a text."""
    end = re.compile(r'(?:[^";]|"(?:[^"\\]|\\.)*")*').match(source, begin)
    assert end is not None
    return end[0]


def quotes() -> list[str]:
    """What the first column of a table quotes; `…` stands for what varies."""
    lines = DOCUMENT.read_text().splitlines()
    said = [line.split(" | ")[0] for line in lines if line.startswith("| `")]
    return [quote for cell in said for quote in re.findall(r"`(.+?)`", cell)]


def says(message: str, quote: str) -> bool:
    return re.search(".+".join(map(re.escape, quote.split("…"))), message) is not None


def test_every_refusal_is_explained() -> None:
    known = quotes()
    unexplained = [text for text in refusals() if not any(says(text, quote) for quote in known)]
    assert not unexplained, "docs/refusals.md does not quote:\n" + "\n".join(sorted(unexplained))


def test_every_quote_is_one_of_a_refusal() -> None:
    messages = refusals()
    unknown = [quote for quote in quotes() if not any(says(text, quote) for text in messages)]
    assert not unknown, "no refusal of the sources says:\n" + "\n".join(unknown)


def test_no_refusal_is_made_where_it_would_not_be_found() -> None:
    wrong = []
    for file, source in sources():
        for use in re.finditer(r"ErrorKind::Refused", source):
            around = source[max(0, use.start() - 60) : use.end() + 10]
            if not (CALLED.search(around) or COMPARED.search(around)):
                wrong.append(f"{file}: {around}")
    assert not wrong, "\n".join(wrong)
