"""An installation with a topic that takes only small messages, and what makes one dead."""

from __future__ import annotations

import json
from collections.abc import Mapping
from subprocess import CompletedProcess
from typing import Any

from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.cimpl import NewTopic

from .checker import Committed, Report
from .installation import PostgresInstallation
from .kafka_topics import REQUEST_LIMIT_S
from .postgres_outbox import publish
from .waiting import wait_until

SMALL_BYTES = 2_000
TOO_LARGE = b"x" * (2 * SMALL_BYTES)
LIMIT = "max.message.bytes"
UNKNOWN = "there is no dead letter with this message id"


class SmallTopic:
    """A topic with a limit of its own; it goes with the installation."""

    def __init__(
        self, installation: PostgresInstallation, config: Mapping[str, str] | None = None
    ) -> None:
        self.installation = installation
        self.name = f"{installation.name}.small"
        self.admin = AdminClient({"bootstrap.servers": installation.servers.kafka})
        config = {LIMIT: str(SMALL_BYTES)} if config is None else config
        topic = NewTopic(self.name, 1, config=dict(config))
        self.admin.create_topics([topic])[self.name].result(timeout=REQUEST_LIMIT_S)

    @property
    def topics(self) -> list[str]:
        """All topics of the installation."""
        return [self.installation.topic, self.name]

    def commit(self, *messages: tuple[bytes | None, bytes]) -> list[str]:
        """Publishes keys and values in one transaction; their message ids."""
        before = {message.message_id for message in self.installation.outbox.ledger()}
        with self.installation.postgres.connect() as connection:
            for key, value in messages:
                publish(connection, self.name, key, value)
        found = [m for m in self.installation.outbox.ledger() if m.message_id not in before]
        return [message.message_id for message in sorted(found, key=lambda m: m.place)]

    def raise_limit(self) -> None:
        """What was too large is not any more."""
        raised = ConfigEntry(LIMIT, "1000000", incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(
            ConfigResource.Type.TOPIC, self.name, incremental_configs=[raised]
        )
        self.admin.incremental_alter_configs([resource])[resource].result(timeout=REQUEST_LIMIT_S)
        wait_until(lambda: self._limit() == raised.value, "the broker knows the limit")

    def _limit(self) -> str | None:
        """As the broker has it, which may hear of a change later than the controller."""
        resource = ConfigResource(ConfigResource.Type.TOPIC, self.name)
        described = self.admin.describe_configs([resource])[resource]
        limit: str | None = described.result(timeout=REQUEST_LIMIT_S)[LIMIT].value
        return limit

    def wait_delivered(self, *message_ids: str) -> None:
        """Waits until a consumer has seen these."""
        self.installation.topics.wait_delivered(self.topics, message_ids)

    def letters(self) -> list[dict[str, Any]]:
        """The dead letters, as `dead-letter list --json` tells them."""
        printed = self.installation.command_line.succeed("--json", "dead-letter", "list")
        found: list[dict[str, Any]] = json.loads(printed)["dead_letters"]
        return found

    def see_to(self, *words: str) -> list[str] | None:
        """Has dead letters retried or discarded, as `words` say, until none of them is left: a
        relay that stands still is waited for. The ids that were told as done; None where it was
        asked more than once, and others may have been done before."""
        command = ("--json", "dead-letter", *words)
        answers: list[CompletedProcess[str]] = []

        def is_done() -> bool:
            answer = self.installation.command_line.run(*command)
            answers.append(answer)
            # One that was named, and is done since it was asked for before, is not known any more.
            is_gone = len(answers) > 1 and UNKNOWN in answer.stderr
            return answer.returncode == 0 or is_gone

        wait_until(is_done, f"{words} is done", explain=lambda: str(answers[-1]))
        if len(answers) > 1:
            return None
        return [letter["message_id"] for letter in json.loads(answers[0].stdout)["done"]]

    def wait_dead(self, *message_ids: str, waiting: int | None = None) -> None:
        """Waits until these and no others are dead letters, with so many waiting behind them."""

        def dead() -> bool:
            found = self.letters()
            behind = sum(letter["waiting_messages"] for letter in found)
            these = {letter["message_id"] for letter in found} == set(message_ids)
            return these and (waiting is None or behind == waiting)

        wait_until(dead, f"dead letters {message_ids}", explain=lambda: str(self.letters()))

    def wait_waiting(self, messages: int) -> None:
        """Waits until so many messages wait for others, or for a topic."""

        def waits() -> bool:
            shards = self.installation.command_line.status()
            found = sum(int(shard["set_aside_waiting_messages"]) for shard in shards)
            return found == messages

        wait_until(waits, f"{messages} messages wait")

    def report(self, *without: str) -> Report:
        """The verdict on everything that was committed but these."""
        ledger = self.installation.outbox.ledger()
        kept: list[Committed] = [m for m in ledger if m.message_id not in without]
        return self.installation.topics.check(self.topics, kept)

    def check(self, *without: str) -> None:
        """Everything arrived once and in order, but for these, which never did."""
        report = self.report(*without)
        assert not report.findings and report.committed, str(report)
