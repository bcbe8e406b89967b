"""The examples in docstrings run as they stand, in whatever module they are."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import onecommit
import psycopg
import pytest

from .two_databases import TwoDatabases


def modules() -> Iterator[ModuleType]:
    """The package and every module in it, but the one whose import runs the command line."""
    yield onecommit
    for found in pkgutil.walk_packages(onecommit.__path__, "onecommit."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


@pytest.fixture
def names(
    lite: sqlite3.Connection, shop: Path, two_databases: TwoDatabases
) -> Iterator[dict[str, Any]]:
    """What the examples take as given: connections, an outbox, and one message in a topic."""
    outbox = onecommit.Outbox()
    with closing(sqlite3.connect(shop / "onecommit-data" / "main.db", timeout=120)) as conn, conn:
        outbox.publish(conn, "account.changed", key="42", value={"total": 100})
    list(onecommit.read("account.changed", from_beginning=True, limit=1))
    given = {**vars(onecommit), "onecommit": onecommit, "psycopg": psycopg}
    with two_databases.connect("orders") as orders, two_databases.connect("billing") as billing:
        conns = {"conn": lite, "orders": orders, "billing": billing}
        yield {**given, **conns, "config": two_databases.config, "outbox": outbox}


def test_examples(names: dict[str, Any]) -> None:
    runner = doctest.DocTestRunner()
    for module in modules():
        for test in doctest.DocTestFinder().find(module, module.__name__, extraglobs=names):
            runner.run(test)
    assert runner.tries > 0
    assert runner.failures == 0
