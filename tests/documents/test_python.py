"""docs/python.md and docs/sqlalchemy-django.md: their functions are called, the messages arrive."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

import django
import onecommit
import psycopg
import pytest
from django.conf import settings
from django.db import connections, models

from tests.e2e.waiting import wait_until

from .document import FIRST_USE, README, blocks, python_of, text_of
from .follower import Follower

PYTHON, FRAMEWORKS = "docs/python.md", "docs/sqlalchemy-django.md"
Defined = Mapping[str, Any]


def run(follower: Follower, program: str, **names: Any) -> Defined:
    """What a program defines."""
    file = follower.folder / "program.py"
    file.write_text(program)
    return runpy.run_path(str(file), names)


def expect_changed(follower: Follower, total: int, published: list[UUID]) -> None:
    """The row has this total; of the key 42 these messages arrived, in order, the last with it."""
    assert follower.sql("select total from accounts where id = 42") == [(total,)]
    received = follower.received("account.changed", len(published))
    assert [message.id for message in received] == published
    assert {message.key for message in received} == {b"42"}
    assert json.loads(received[-1].value or b"") == {"total": total}


@pytest.fixture
def python(follower: Follower, put: Mapping[str, str]) -> Defined:
    """docs/python.md, followed to the relay; what its programs define."""
    found = blocks(PYTHON, "# Onecommit in Python", put)
    follower.follow(block for block in blocks(README, FIRST_USE, put) if block.file_name)
    follower.follow(block for block in found if block.language == "sh")
    return run(follower, python_of(found))


def test_publishing(follower: Follower, python: Defined) -> None:
    with psycopg.connect(follower.database_url) as conn:
        published = [python["change_total"](conn, 42, 100), *python["change_many"](conn, {42: 101})]
        published += python["change_many"](conn, {42: 102})
    follower.sql("update accounts set total = 102")  # `change_many` only publishes
    expect_changed(follower, 102, published)


async def test_publishing_with_asyncio(follower: Follower, python: Defined) -> None:
    async with await psycopg.AsyncConnection.connect(follower.database_url) as conn:
        published = await python["change_async"](conn, 42, 100)
    expect_changed(follower, 100, [published])


def test_an_encoder(follower: Follower, python: Defined) -> None:
    class Content:
        def SerializeToString(self) -> bytes:  # noqa: N802 - as Protobuf calls it
            return b"\x08\x2a"

    with psycopg.connect(follower.database_url) as conn:
        python["protobuf_outbox"].publish(conn, "account.changed", value=Content())
    assert follower.received("account.changed", 1)[0].value == b"\x08\x2a"


def test_reading(
    follower: Follower,
    python: Defined,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with psycopg.connect(follower.database_url) as conn:
        published = python["change_total"](conn, 42, 100)
    follower.received("account.changed", 1)
    monkeypatch.chdir(follower.folder)

    def shown() -> str:
        python["show"]()
        return capsys.readouterr().out

    # It shows nothing where none comes for 5 s, in which the machine may stand still.
    printed = wait_until(shown, "it shows something")
    assert printed.startswith(f"""{published} b'42' b'{{"total":100}}' """)


def test_the_table_of_errors() -> None:
    rows = re.findall(r"^\| `([A-Z]\w+)` \| `(\w+)` \| (yes|no) \|", text_of(PYTHON), re.MULTILINE)
    said = {(name, kind, retriable == "yes") for name, kind, retriable in rows}
    errors = onecommit.Error.__subclasses__()
    assert said == {(error.__name__, error.kind, error.retriable) for error in errors}


def test_sqlalchemy(shop: Follower, put: Mapping[str, str]) -> None:
    defined = run(shop, python_of(blocks(FRAMEWORKS, "## SQLAlchemy", put)))
    try:
        published = [defined["change_total"](42, 100), defined["add_to_total"](42, 1)]
    finally:
        defined["engine"].dispose()
    expect_changed(shop, 101, published)


async def test_sqlalchemy_with_asyncio(shop: Follower, put: Mapping[str, str]) -> None:
    defined = run(shop, python_of(blocks(FRAMEWORKS, "## SQLAlchemy", put)))
    try:
        published = await defined["change_total_async"](42, 100)
    finally:
        await defined["async_engine"].dispose()
    expect_changed(shop, 100, [published])


@pytest.fixture
def django_shop(shop: Follower) -> Iterator[Follower]:
    at = psycopg.conninfo.conninfo_to_dict(shop.database_url)
    place = {"NAME": at["dbname"], "HOST": at["host"], "PORT": at["port"], "USER": at["user"]}
    engine = "django.db.backends.postgresql"
    settings.configure(DATABASES={"default": {"ENGINE": engine, **place}})
    django.setup()
    yield shop
    connections.close_all()


def test_django(django_shop: Follower, put: Mapping[str, str]) -> None:
    class Account(models.Model):  # type: ignore[misc]  # Django brings no types
        id = models.IntegerField(primary_key=True)
        total = models.IntegerField()

        class Meta:
            app_label = "shop"
            db_table = "accounts"

    program = python_of(blocks(FRAMEWORKS, "## Django", put))
    published = run(django_shop, program, Account=Account)["change_total"](42, 100)
    with pytest.raises(onecommit.InvalidError, match="autocommit"):
        onecommit.Outbox().publish(connections["default"].connection, "account.changed")
    expect_changed(django_shop, 100, [published])
