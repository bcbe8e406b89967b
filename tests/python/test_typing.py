"""What type checkers see."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "python.md"

GOOD = """
import sqlite3
import psycopg
import onecommit
from onecommit import AsyncOutbox, Message, MessageId, Outbox

def change(conn: psycopg.Connection, lite: sqlite3.Connection) -> list[MessageId]:
    outbox = Outbox(encoder=lambda content: bytes(content))
    one = outbox.publish(conn, "t", key=42, value={"a": 1}, headers=[("a", b"x"), ("b", None)])
    reveal_type(one)
    outbox.publish(lite, "t", headers={"a": "x"}, partition=3)
    return outbox.publish_many(conn, [Message("t", value=b"x")])

async def change_async(conn: psycopg.AsyncConnection) -> MessageId:
    publishing = AsyncOutbox().publish(conn, "t")
    _ = reveal_type(publishing)
    return await publishing

def pay(conn: psycopg.Connection, other: psycopg.Connection) -> int:
    with onecommit.open("onecommit.toml") as oc:
        with oc.transaction(orders=conn, billing=other, isolation="serializable", deadline=3) as tx:
            reveal_type(tx.publish("t", key=42, outbox="orders"))
            reveal_type(tx.lock("a", timeout=1))
        reveal_type(tx.applied)
        reveal_type(tx.protocol)
        with oc.lock("a", timeout=1) as lock, oc.leader("a") as leader:
            reveal_type(lock.number)
            reveal_type(leader.is_held)
        return oc.run(lambda tx: len(tx.id), orders=conn)

async def pay_async(conn: psycopg.AsyncConnection) -> str:
    async def work(tx: onecommit.AsyncTransaction) -> str:
        return str(tx.publish("t"))

    async with onecommit.open_async() as oc:
        async with oc.transaction(orders=conn, ack="decided") as tx:
            reveal_type(tx.publish("t"))
            reveal_type(await tx.lock("a"))
        async with oc.lock("a") as lock:
            reveal_type(await lock.wait_lost(1))
        return await oc.run(work, attempts=3, orders=conn)

def read() -> None:
    for message in onecommit.read("t", limit=3):
        reveal_type(message)
        reveal_type(message.id)
    try:
        pass
    except onecommit.Error as error:
        reveal_type(error.kind)
        reveal_type(error.retriable)
        reveal_type(error.context)
"""

BAD = """
import psycopg
from onecommit import AsyncOutbox, Message, Outbox

async def change(conn: psycopg.AsyncConnection, other: psycopg.Connection) -> None:
    AsyncOutbox().publish(conn, "t")
    AsyncOutbox().publish_many(conn, [])
    Outbox().publish(conn, "t")
    await AsyncOutbox().publish(other, "t")
    Outbox().publish(other, 42)
    Outbox().publish_many(other, ["t"])
    Outbox().publish(other, "t", "positional")
    Message("t").topic = "u"
"""

BAD_TRANSACTIONS = """
import psycopg
from onecommit import AsyncOnecommit, AsyncTransaction, Onecommit

async def work(tx: AsyncTransaction) -> None:
    tx.publish("t")

async def pay(oc: AsyncOnecommit, conn: psycopg.AsyncConnection, other: psycopg.Connection) -> None:
    oc.transaction(orders=other)
    oc.transaction(orders=conn, billing=other)
    oc.run(work, orders=conn)
    await oc.run(work, orders=other)
    with oc.transaction(orders=conn):
        pass

def pay_blocking(oc: Onecommit, conn: psycopg.Connection, other: psycopg.AsyncConnection) -> None:
    oc.transaction(orders=other)
    oc.transaction(orders=conn, deadline="soon")
    with oc.transaction(orders=conn) as tx:
        tx.publish(42)
        tx.commit()
"""


def mypy(folder: Path, program: str) -> list[str]:
    (folder / "program.py").write_text(program.lstrip())
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "program.py"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ran.stderr == ""
    return ran.stdout.splitlines()


def errors(folder: Path, program: str) -> dict[int, str]:
    lines = mypy(folder, program)
    return {int(line.split(":")[1]): line.split("[")[-1] for line in lines if ": error:" in line}


def test_right_use_is_accepted_under_strict(tmp_path: Path) -> None:
    *revealed, last = mypy(tmp_path, GOOD)
    assert last == "Success: no issues found in 1 source file"
    assert [line.partition('Revealed type is "')[2].rstrip('"') for line in revealed] == [
        "onecommit._message.MessageId",
        "typing.Coroutine[Any, Any, onecommit._message.MessageId]",
        "onecommit._message.MessageId",
        "int",
        "bool",
        "str | None",
        "int",
        "bool",
        "onecommit._message.MessageId",
        "int",
        "bool",
        "onecommit._message.ReceivedMessage",
        "onecommit._message.MessageId | None",
        "str",
        "bool",
        "dict[str, str]",
    ]


def test_the_examples_of_the_documentation_are_well_typed(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", DOCUMENTATION.read_text(), re.M | re.S)
    assert len(blocks) > 3
    assert mypy(tmp_path, "".join(blocks)) == ["Success: no issues found in 1 source file"]


def test_wrong_use_is_an_error_and_so_is_a_forgotten_await(tmp_path: Path) -> None:
    assert errors(tmp_path, BAD) == {
        5: "unused-coroutine]",
        6: "unused-coroutine]",
        7: "arg-type]",
        8: "arg-type]",
        9: "arg-type]",
        10: "list-item]",
        11: "call-arg]",
        12: "misc]",
    }


def test_a_transaction_takes_the_connections_of_its_kind(tmp_path: Path) -> None:
    assert errors(tmp_path, BAD_TRANSACTIONS) == {
        8: "arg-type]",
        9: "arg-type]",
        10: "unused-coroutine]",
        11: "arg-type]",
        12: "attr-defined]",
        16: "arg-type]",
        17: "arg-type]",
        19: "arg-type]",
        20: "attr-defined]",
    }


def test_the_stubs_say_what_the_native_module_has(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mypy.stubtest", "onecommit._native"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout
