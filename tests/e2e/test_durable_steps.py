"""Every durable step of the ports has a failpoint right before it and one right behind it.

Reads the sources: a line that commits, or changes a server by a single request, has to have a
`failpoint!` within a few lines on both sides. A step that lacks them is named here with the reason.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .command_line import ROOT

ROOMS = [
    "outbox",
    "delivery",
    "lease",
    "lock",
    "participant",
    "decision_log",
    "sqlite",
    "postgres",
    "zookeeper",
]
WITHIN_LINES = 15
DURABLE = re.compile(
    r"(?<!fn )\bcommit\(transaction"  # SQLite, by our own function
    r"|\btransaction\.commit\(\)"  # PostgreSQL's and SQLite's own
    r'|\(.*"commit"\)'  # in SQL
    r"|\.execute_typed\(|Effect::Possible, &sql|self\.execute\("  # a statement on its own
    r"|\bwriter\.commit\(\)|\.commit\(writer\)"  # ZooKeeper, all or nothing
    r"|\.client\(\)\.(?:create|delete|set_data)\("  # ZooKeeper, one node
    r"|\bconnection\.delete\("  # the same, by our own function
    r"|\bself\.(?:write\(OPERATION|end_by\()"  # by a participant's own connections
    r"|\bproducer\.(?:commit|init_transactions)\(|\bcreate_topics\(|commit_consumer_state\("
)
FAILPOINT = "failpoint!("

EXCEPTIONS = {
    (
        "outbox/postgres/init.rs",
        "transaction.execute_typed(&insert",
    ): "inside the transaction that `init` commits",
    (
        "outbox/postgres/init.rs",
        "transaction.execute_typed(&update",
    ): "inside the same transaction",
    ("outbox/postgres/delivered.rs", "execute_typed("): "inside the transaction that prune commits",
    (
        "outbox/postgres/read.rs",
        'connection.execute("end poll", "commit")',
    ): "ends a transaction that wrote nothing",
    (
        "outbox/postgres/connection.rs",
        'self.execute("connect", &fill_life(schema))',
    ): "an unlogged row that only has to be there while the server lives",
    (
        "outbox/postgres/port.rs",
        "self.connection.client.execute_typed(",
    ): "claim, birth and error have them around their call of this function",
    (
        "zookeeper/nodes.rs",
        "self.client().delete(path, None)",
    ): "whoever deletes through this function has them around the call",
    (
        "postgres/connect.rs",
        'client.batch_execute("commit")',
    ): "whoever writes through this function has them around the call; reads write nothing",
    (
        "outbox/postgres/barrier.rs",
        "let removed = connection.client.execute_typed(",
    ): "rows that no position names, nor ever will: there or gone, a restart is the same",
    (
        "outbox/postgres/publish.rs",
        ".execute_typed(",
    ): "inside the caller's transaction, which the caller commits",
    (
        "sqlite/transaction.rs",
        "transaction.commit()",
    ): "the function that every commit of SQLite calls",
    (
        "lease/postgres.rs",
        "let written = self.query(operation, Effect::Possible",
    ): "take and release have them around their call of this function",
    (
        "zookeeper/connection.rs",
        "writer.commit()",
    ): "the function that the steps of the decision log call",
    (
        "lease/zookeeper/port.rs",
        "connection.call(writer.commit()).await.map(|_| ())",
    ): "take has them around its call of this function",
    (
        "delivery/kafka/consume.rs",
        "commit_consumer_state(",
    ): "a consumer group's own position, which Kafka keeps and promises nothing about",
}


@dataclass(frozen=True)
class Step:
    """A line of a source file that makes something durable."""

    file: str
    number: int
    text: str
    guarded: bool


def steps() -> list[Step]:
    found = []
    for room in ROOMS:
        for path in sorted((ROOT / "src" / room).rglob("*.rs")):
            found += steps_in(path)
    return found


def steps_in(path: Path) -> list[Step]:
    lines = path.read_text().split("#[cfg(test)]\nmod tests")[0].splitlines()
    code = ["" if line.lstrip().startswith("//") else line for line in lines]
    name = str(path.relative_to(ROOT / "src"))
    return [
        Step(name, number + 1, line.strip(), guarded(code, number))
        for number, line in enumerate(code)
        if DURABLE.search(line)
    ]


def guarded(code: list[str], number: int) -> bool:
    before = code[max(0, number - WITHIN_LINES) : number]
    behind = code[number + 1 : number + 1 + WITHIN_LINES]
    return any(FAILPOINT in line for line in before) and any(FAILPOINT in line for line in behind)


def reason(step: Step) -> str | None:
    for (file, text), why in EXCEPTIONS.items():
        if step.file == file and text in step.text:
            return why
    return None


def test_every_durable_step_has_failpoints_on_both_sides() -> None:
    bare = [step for step in steps() if not step.guarded and reason(step) is None]
    assert not bare, "\n".join(f"src/{step.file}:{step.number}: {step.text}" for step in bare)


def test_the_steps_are_found() -> None:
    """The patterns still match the code: every backend has steps, and every exception exists."""
    found = steps()
    assert sum(step.guarded for step in found) >= 25
    for backend in [
        "outbox/postgres",
        "outbox/sqlite",
        "delivery/kafka",
        "delivery/topic_log",
        "lease/file",
        "lease/postgres",
        "lease/zookeeper",
        "lock/file",
        "lock/zookeeper",
        "participant/postgres",
        "decision_log/file",
        "decision_log/zookeeper",
    ]:
        assert any(step.file.startswith(backend) and step.guarded for step in found), backend
    for file, text in EXCEPTIONS:
        assert any(step.file == file and text in step.text for step in found), (file, text)


def test_a_step_without_failpoints_is_noticed(tmp_path: Path) -> None:
    folder = ROOT / "src" / "lease"
    bare = (folder / "file.rs").read_text().replace('failpoint!("lease.take.before_commit")?;', "")
    path = tmp_path / "file.rs"
    path.write_text(bare)
    code = path.read_text().splitlines()
    take = next(number for number, line in enumerate(code) if "lease.take.after_commit" in line)
    assert not guarded(code, take - 1)
