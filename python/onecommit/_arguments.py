"""What callers pass in, made into what Rust can take. Each check is here once.

An error names the argument, what it has to be, and what it was.
"""

from __future__ import annotations

import os
from typing import NewType, SupportsFloat

from ._errors import InvalidError

Milliseconds = NewType("Milliseconds", int)
"""A limit that Rust can wait for."""

# Behind it clocks and waits would overflow; longer than anybody waits.
_LONGEST_S = 10 * 365 * 24 * 3600
_SHOWN = 60


def milliseconds(name: str, seconds: object, operation: str) -> Milliseconds:
    """A limit; one below 0, as what is left of another one may be, has passed."""
    return Milliseconds(max(0, round(1000 * _number(name, seconds, operation))))


def longest(name: str, seconds: object, operation: str) -> Milliseconds | None:
    """A limit, or None for none."""
    return None if seconds is None else milliseconds(name, seconds, operation)


def positive(name: str, seconds: object, operation: str) -> Milliseconds | None:
    """One that is not over before it begins, or None for the usual one."""
    if seconds is None:
        return None
    number = _number(name, seconds, operation)
    if number <= 0:
        raise _beyond(name, "more than 0 seconds", seconds, operation)
    return Milliseconds(max(1, round(1000 * number)))


def _number(name: str, seconds: object, operation: str) -> float:
    what = f"a number of seconds, {_LONGEST_S} (ten years) at most"
    if not isinstance(seconds, SupportsFloat):
        raise _wrong(name, what, seconds, operation)
    try:
        number = float(seconds)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise _beyond(name, what, seconds, operation) from error
    # Written so that NaN is refused, too.
    if not -_LONGEST_S <= number <= _LONGEST_S:
        raise _beyond(name, what, seconds, operation)
    return number


def count(name: str, given: object, operation: str) -> int:
    """How many times something is done."""
    what = "an int that is 1 or more"
    if not isinstance(given, int):
        raise _wrong(name, what, given, operation)
    if given < 1:
        raise _beyond(name, what, given, operation)
    return given


def text(name: str, given: object, operation: str, what: str = "a str") -> str:
    """What UTF-8 can spell; how long it may be, and what else it has to be, is said in Rust."""
    if not isinstance(given, str):
        raise _wrong(name, what, given, operation)
    try:
        given.encode()
    except UnicodeEncodeError as error:
        why = f"{name} can't be encoded as UTF-8: it holds a lone surrogate"
        raise InvalidError(why, operation, {name: _shown(given)}) from error
    return given


def text_or_none(name: str, given: object, operation: str, what: str = "a str") -> str | None:
    """The same, where it may be left out."""
    return None if given is None else text(name, given, operation, what)


def bytes_of(name: str, given: object, operation: str) -> bytes:
    """Bytes, of whatever type; how many they may be is said in Rust."""
    if isinstance(given, (bytes, bytearray, memoryview)):
        return bytes(given)
    raise _wrong(name, "bytes", given, operation)


def path(name: str, given: object, operation: str) -> str | None:
    """A file's path, or None for the usual one."""
    if given is None:
        return None
    found = os.fspath(given) if isinstance(given, os.PathLike) else given
    if not isinstance(found, str):
        raise _wrong(name, "a path", given, operation)
    try:
        os.fsencode(found)
    except UnicodeEncodeError as error:
        why = f"{name} is no path that a file can have: it holds a lone surrogate"
        raise InvalidError(why, operation, {name: _shown(given)}) from error
    return found


def _wrong(name: str, what: str, given: object, operation: str) -> InvalidError:
    why = f"{name} is {what}, not {type(given).__name__}"
    return InvalidError(why, operation, {name: _shown(given)})


def _beyond(name: str, what: str, given: object, operation: str) -> InvalidError:
    return InvalidError(f"{name} is {what}", operation, {name: _shown(given)})


def _shown(given: object) -> str:
    try:
        return ascii(given)[:_SHOWN]
    except Exception:  # a __repr__ of the caller's
        return "?"
