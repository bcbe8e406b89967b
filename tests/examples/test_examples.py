"""Each example does what its opening words say: committed messages arrive, others never."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from confluent_kafka.admin import AdminClient

from tests.e2e.conftest import MakeInstallation

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 600  # the first Rust example is compiled, beside everything else that is tested
CHANGES = 10
TOPIC = "account.changed"


def example(name: str, language: str) -> list[str]:
    """The command that runs an example."""
    if language == "python":
        return [sys.executable, str(ROOT / "examples" / f"{name}.py")]
    command = ["cargo", "run", "--locked", "--quiet", "--features", "failpoints"]
    return [*command, "--manifest-path", str(ROOT / "Cargo.toml"), "--example", name, "--"]


def run(command: list[str], folder: Path) -> list[str]:
    """Runs an example beside its onecommit.toml; returns what it printed."""
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
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
    admin = AdminClient({"bootstrap.servers": installation.servers.kafka})
    admin.delete_topics([TOPIC])[TOPIC].result(timeout=LIMIT_S)


def total(line: str) -> str:
    """The total in a line that a consumer printed."""
    return line.rstrip("}").split(":")[-1].strip()
