"""The exceptions: kinds as in Rust, causes, pickling, and panics that stay inside."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path

import onecommit
import pytest
from onecommit import Error, InvalidError
from onecommit._errors import BY_KIND
from onecommit._native.error import RETRIABLE

CLASSES = sorted(BY_KIND.items())


def test_there_is_a_class_for_each_kind_of_rust() -> None:
    assert BY_KIND.keys() == RETRIABLE.keys()
    assert {kind for kind, cls in BY_KIND.items() if cls.retriable} == {
        "conflict",
        "fenced",
        "unclear",
        "unreachable",
    }


@pytest.mark.parametrize(("kind", "cls"), CLASSES)
def test_the_text_says_what_where_and_why(kind: str, cls: type[Error]) -> None:
    error = cls("is wrong", "do it", {"a": "1", "b": "2"})
    assert str(error) == "do it: is wrong (a: 1, b: 2)"
    error.__cause__ = ValueError("cause\nin lines")
    assert str(error) == "do it: is wrong (a: 1, b: 2): cause"
    error.__cause__.__cause__ = OSError("its own")
    assert str(error) == "do it: is wrong (a: 1, b: 2): cause: its own"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    error.__cause__ = KeyboardInterrupt()
    assert str(error) == "do it: is wrong (a: 1, b: 2): KeyboardInterrupt"
    assert cls.__name__ == ("InDoubt" if kind == "in_doubt" else f"{kind.capitalize()}Error")
    assert getattr(onecommit, cls.__name__) is cls


class UnpicklableError(Exception):
    def __init__(self) -> None:
        super().__init__("held a lock")
        self.lock = threading.Lock()


@pytest.mark.parametrize(("kind", "cls"), CLASSES)
@pytest.mark.parametrize("cause", [None, ValueError("cause"), InvalidError("inner", "it")])
def test_pickling_keeps_everything(kind: str, cls: type[Error], cause: Exception | None) -> None:
    error = cls("is wrong", "do it", {"a": "1"})
    error.__cause__ = cause
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is cls
    assert (copy.kind, copy.retriable) == (kind, RETRIABLE[kind])
    assert (copy.message, copy.operation, copy.context) == ("is wrong", "do it", {"a": "1"})
    assert (type(copy.__cause__), str(copy)) == (type(cause), str(error))


def test_pickling_keeps_the_text_of_a_cause_that_cant_be_pickled() -> None:
    error = InvalidError("is wrong", "do it")
    error.__cause__ = UnpicklableError()
    assert str(pickle.loads(pickle.dumps(error))) == "do it: is wrong: held a lock"


def test_an_error_of_rust_keeps_its_causes(tmp_path: Path) -> None:
    config = tmp_path / "onecommit.toml"
    config.mkdir()
    with pytest.raises(onecommit.ConfigurationError) as caught:
        onecommit.read("t", config=config)
    assert caught.value.operation == "read configuration"
    assert "Is a directory" in str(caught.value.__cause__)
    assert str(config) in str(caught.value)
