"""The examples in docstrings run as they stand."""

from __future__ import annotations

import doctest
import sqlite3
from types import ModuleType

import onecommit
import psycopg
import pytest
from onecommit import _message, _outbox


@pytest.mark.parametrize("module", [_message, _outbox])
def test_examples(module: ModuleType, lite: sqlite3.Connection) -> None:
    names = {**vars(onecommit), "conn": lite, "psycopg": psycopg, "outbox": onecommit.Outbox()}
    runner = doctest.DocTestRunner()
    for test in doctest.DocTestFinder().find(module, module.__name__, extraglobs=names):
        runner.run(test)
    assert runner.tries > 0
    assert runner.failures == 0
