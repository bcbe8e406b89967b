"""Each example does what its opening words say: committed messages arrive, others never."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg
from confluent_kafka.admin import AdminClient

from tests.documents.follower import PATIENCE
from tests.e2e.conftest import MakeInstallation
from tests.e2e.installation import PostgresInstallation
from tests.e2e.postgres_outbox import PostgresOutbox

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 600  # the first Rust example is compiled, beside everything else that is tested
CHANGES = 10
TOPIC = "account.changed"
BANK_TOPIC = "transfer.made"


def example(name: str, language: str) -> list[str]:
    """The command that runs an example."""
    if language == "python":
        return [sys.executable, str(ROOT / "examples" / f"{name}.py")]
    command = ["cargo", "run", "--locked", "--quiet", "--features", "failpoints"]
    return [*command, "--manifest-path", str(ROOT / "Cargo.toml"), "--example", name, "--"]


def ended(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs an example beside its onecommit.toml, to its end."""
    return subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env={**os.environ, **PATIENCE},
    )


def run(command: list[str], folder: Path) -> list[str]:
    """What an example prints."""
    done = ended(command, folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_what_the_producers_commit_is_what_the_consumers_print(
    make_installation: MakeInstallation,
) -> None:
    installation = make_installation()
    installation.command_line.succeed("init", "--topic", TOPIC)
    committed = []
    for language in ["python", "rust"]:
        command = [*example("producer", language), installation.database_url, str(CHANGES)]
        printed = run(command, installation.folder)
        committed += [line.split()[-1] for line in printed if line.startswith("committed")]
    assert len(committed) == 2 * (CHANGES - CHANGES // 3)
    relay = installation.relay()
    for language in ["python", "rust"]:
        command = [*example("consumer", language), TOPIC, str(len(committed))]
        # A change that was rolled back is made again, so totals show what was committed only.
        assert [total(line) for line in run(command, installation.folder)] == committed
    relay.stop()
    remove(TOPIC, installation)


def test_the_bank_moves_money_between_two_databases_and_its_consumers_agree(
    make_installation: MakeInstallation,
) -> None:
    installation = make_installation()
    postgres = installation.servers.postgres
    north = PostgresOutbox(postgres, f"{installation.name}_north")
    south = PostgresOutbox(postgres, f"{installation.name}_south")
    urls = [north.url, south.url]
    installation.configure(
        other={
            "participants.north": {"url": north.url, "outbox": True},
            "participants.south": {"url": south.url},
        }
    )
    installation.command_line.succeed("init", "--topic", BANK_TOPIC)
    relay = installation.relay()
    printed = []
    for name, language in [("bank", "python"), ("bank_async", "python"), ("bank", "rust")]:
        count = [str(CHANGES)] if name == "bank" else []
        printed += run([*example(name, language), *urls, *count], installation.folder)
    committed = [int(line.split()[-1]) for line in printed if line.startswith("committed")]
    assert "refused 30" in printed and len(printed) == 2 * CHANGES + 1, printed
    assert [total_of(url) for url in urls] == [100 - sum(committed), 100 + sum(committed)]
    said = [f"{len(committed)} transfers: both databases and Kafka agree"]
    for language in ["python", "rust"]:
        assert run([*example("bank_consumer", language), *urls], installation.folder) == said
    with psycopg.connect(south.url) as conn:
        conn.execute("update entries set amount = amount + 1 where amount > 0")
    for language in ["python", "rust"]:
        command = [*example("bank_consumer", language), *urls]
        assert "they do not agree" in failing(command, installation.folder)
    relay.stop()
    remove(BANK_TOPIC, installation)
    for database in (north, south):
        database.drop()


def total_of(url: str) -> int:
    """What Ann has."""
    with psycopg.connect(url) as conn:
        row = conn.execute("select total from accounts").fetchone()
    assert row is not None
    return int(row[0])


def failing(command: list[str], folder: Path) -> str:
    """What an example says that fails."""
    done = ended(command, folder)
    assert done.returncode == 1, done.stdout
    return done.stderr


def remove(topic: str, installation: PostgresInstallation) -> None:
    """Deletes a topic that no installation has as its own."""
    admin = AdminClient({"bootstrap.servers": installation.servers.kafka})
    admin.delete_topics([topic])[topic].result(timeout=LIMIT_S)


def total(line: str) -> str:
    """The total in a line that a consumer printed."""
    return line.rstrip("}").split(":")[-1].strip()
