"""Each small act of `tests/bad_input` raises the exception of Onecommit that its row names, with
its cause behind it, and publishes nothing."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import onecommit
import psycopg
import pytest
from onecommit import AsyncOutbox, Outbox

from tests.bad_input import CASES, Case

from .outbox_tables import committed

ACTS = [case for case in CASES if case.act is not None]


class Acting:
    """A `Place`: what the acts find."""

    def __init__(self, lite: sqlite3.Connection, pg: psycopg.Connection[Any], folder: Path) -> None:
        self.lite = lite
        self.pg = pg
        self.folder = folder

    def publish(self, topic: Any = "t", *, by: Any = None, **parts: Any) -> None:
        Outbox().publish(self.lite if by is None else by, topic, **parts)

    def publish_many(self, messages: Any) -> None:
        Outbox().publish_many(self.lite, messages)

    def publish_async(self) -> None:
        # A coroutine that ends at its first step needs no loop.
        AsyncOutbox().publish(self.pg, "t").send(None)  # type: ignore[arg-type]

    def read(self, topic: Any = "t", *, config: Any = "", **arguments: Any) -> None:
        if isinstance(config, str):
            file = self.folder / "onecommit.toml"
            file.write_text(config or f"data_dir = '{self.folder / 'data'}'\n")
            config = file
        onecommit.read(topic, config=config, **arguments).close()


@pytest.mark.parametrize("case", ACTS, ids=[case.name for case in ACTS])
def test_an_act(
    case: Case,
    lite: sqlite3.Connection,
    sqlite_file: Path,
    pg: psycopg.Connection[Any],
    empty_url: str,
    tmp_path: Path,
) -> None:
    assert case.act is not None
    with pytest.raises(onecommit.Error) as caught:
        case.act(Acting(lite, pg, tmp_path))
    error = caught.value
    assert type(error).__name__ == case.outcome, repr(error)
    for words in case.says:
        assert words in str(error), str(error)
    assert error.operation and error.message
    cause = None if error.__cause__ is None else type(error.__cause__).__name__
    assert cause == case.cause, repr(error.__cause__)

    for connection in (lite, pg):
        connection.close()  # what was not committed is gone
    assert committed(empty_url) == []
    with closing(sqlite3.connect(sqlite_file)) as again:
        assert again.execute("select count(*) from onecommit_outbox").fetchone() == (0,)
