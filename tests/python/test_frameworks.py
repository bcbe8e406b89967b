"""The code in docs/sqlalchemy-django.md, run with the frameworks themselves on a real server."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django
import psycopg
import pytest
from django.conf import settings
from django.db import connections, models
from onecommit import InvalidError, MessageId, Outbox

from .outbox_tables import committed

DOCUMENT = Path(__file__).parents[2] / "docs" / "sqlalchemy-django.md"
URL = "postgresql+psycopg://app@127.0.0.1/orders"


def code(heading: str) -> str:
    """All the Python below one heading."""
    section = DOCUMENT.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return "".join(re.findall(r"^```python\n(.*?)^```$", section, re.M | re.S))


@pytest.fixture
def account_url(empty_url: str) -> str:
    with psycopg.connect(empty_url) as conn:
        conn.execute("insert into accounts values (42, 7)")
    return empty_url


def expect_changed(url: str, total: int, published: MessageId) -> None:
    with psycopg.connect(url) as conn:
        assert conn.execute("select total from accounts where id = 42").fetchone() == (total,)
    row = committed(url)[-1]
    assert row["message_id"] == published
    assert (row["key"], row["value"]) == (b"42", b'{"total":%d}' % total)


def run_sqlalchemy(url: str, folder: Path) -> dict[str, Any]:
    at = psycopg.conninfo.conninfo_to_dict(url)
    own = f"postgresql+psycopg://{at['user']}@{at['host']}:{at['port']}/{at['dbname']}"
    program = folder / "program.py"
    program.write_text(code("SQLAlchemy").replace(URL, own))
    return runpy.run_path(str(program))


def test_sqlalchemy(account_url: str, tmp_path: Path) -> None:
    defined = run_sqlalchemy(account_url, tmp_path)
    try:
        expect_changed(account_url, 100, defined["change_total"](42, 100))
        expect_changed(account_url, 101, defined["add_to_total"](42, 1))
    finally:
        defined["engine"].dispose()


async def test_sqlalchemy_with_asyncio(account_url: str, tmp_path: Path) -> None:
    defined = run_sqlalchemy(account_url, tmp_path)
    try:
        expect_changed(account_url, 100, await defined["change_total_async"](42, 100))
    finally:
        await defined["async_engine"].dispose()


@pytest.fixture
def django_at(account_url: str) -> Iterator[str]:
    at = psycopg.conninfo.conninfo_to_dict(account_url)
    place = {"NAME": at["dbname"], "HOST": at["host"], "PORT": at["port"], "USER": at["user"]}
    if not settings.configured:
        engine = "django.db.backends.postgresql"
        settings.configure(DATABASES={"default": {"ENGINE": engine, **place}})
        django.setup()
    yield account_url
    connections.close_all()


def test_django(django_at: str, tmp_path: Path) -> None:
    class Account(models.Model):
        id = models.IntegerField(primary_key=True)
        total = models.IntegerField()

        class Meta:
            app_label = "shop"
            db_table = "accounts"

    program = tmp_path / "program.py"
    program.write_text(code("Django"))
    defined = runpy.run_path(str(program), {"Account": Account})
    expect_changed(django_at, 100, defined["change_total"](42, 100))
    with pytest.raises(InvalidError, match="autocommit"):
        Outbox().publish(connections["default"].connection, "t")
