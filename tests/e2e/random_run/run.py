"""One run: servers and load are started, two lanes do harm, everything is mended, and judged.

All chances come from one seed. Threads and servers have their own pace, so a run is not the same
again by its seed; its deeds are, in kind and order.
"""

from __future__ import annotations

import random
import shutil
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from pathlib import Path

from tests.servers import QUICK_RETURN, Ensemble, Kafka, free_port

from ..dead_letters import SmallTopic
from ..installation import PostgresInstallation, Servers
from ..kafka_topics import TopicReader
from ..tcp_proxy import TcpProxy
from ..waiting import wait_until
from .journal import Journal
from .lanes import on_relays, on_servers, work
from .load import AllKinds, PgBench
from .postgres_pair import PostgresPair
from .relays import Proxies, Relays

BROKERS = 3
SHARDS = 6
# Fewer partitions are back sooner.
KAFKA = {**QUICK_RETURN, "transaction.state.log.num.partitions": "6"}
LIMIT_S = 300.0
LOADS = [
    "long transaction",
    "savepoint kept",
    "savepoint rolled back",
    "prepared",
    "foreign prepared",
    "prepared, then commit",
    "prepared, then rollback",
    "pgbench transaction",
    "dead letter",
]


def run(seed: int, seconds: float, folder: Path) -> None:
    """Harm for so many seconds, and until all that is planned has happened; then the verdict."""
    journal = Journal()
    try:
        with ExitStack() as stack:
            _Run(seed, seconds, folder, journal, stack).run()
    except Exception as error:
        again = f"make soak SEED={seed} SECONDS={seconds:.0f}"
        journal.note(f"failed: {str(error).splitlines()[:1]}")
        raise AssertionError(
            f"seed {seed} failed; run it again with: {again}\n{journal.tail()}\n{error}"
        ) from error


class _Run:
    def __init__(
        self, seed: int, seconds: float, folder: Path, journal: Journal, stack: ExitStack
    ) -> None:
        self.seconds, self.journal = seconds, journal
        self.chance = random.Random(seed)
        journal.note(f"seed {seed}, {seconds:.0f} s")
        ports = [free_port() for _ in range(BROKERS)]
        self.kafka = Kafka(BROKERS, advertised_ports=ports, heap="256m", properties=KAFKA)
        self.zookeeper, self.postgres = Ensemble(), PostgresPair()
        with ThreadPoolExecutor() as pool:
            started = [
                pool.submit(stack.enter_context, server)
                for server in (self.kafka, self.zookeeper, self.postgres)
            ]
        for one in started:
            one.result()
        journal.note("servers are up")
        given = Servers(self.postgres.dsn, self.kafka.internal_address, self.zookeeper.address)
        made = self.installation = PostgresInstallation(given, folder, zookeeper=True)
        stack.callback(made.command_line.close)
        made.postgres.shards = SHARDS
        made.relay_settings |= {"request_timeout_ms": 3000}
        made.configure()
        made.init()
        self.small = SmallTopic(made)
        made.all_topics.append(self.small.name)
        brokers = zip(ports, self.kafka.brokers, strict=True)
        to_kafka = [stack.enter_context(TcpProxy(port, broker.port)) for port, broker in brokers]
        self.proxies = Proxies(stack, to_kafka)
        self.proxies.add("postgres", [self.postgres.port])
        self.proxies.add("zookeeper", [member.port for member in self.zookeeper.members])

    def run(self) -> None:
        made, journal, chance = self.installation, self.journal, self.chance
        url, folder = made.database_url, made.folder
        bench = PgBench(self.postgres.primary.programs, url, made.topic, folder, journal)
        writers = AllKinds(url, made.topic, self.small.name, chance.getrandbits(32), journal)
        relays = Relays(made, self.proxies)
        try:
            try:
                self._harm(relays)
            finally:
                journal.note("the load ends")
                writers.stop()
                bench.stop()
            writers.resolve_prepared(chance)
            lost = f"{writers.lost_connections} connections lost"
            journal.note(f"{writers.committed} transactions of the writers committed, {lost}")
            self._retry_dead_letters()
            self._judge(relays)
        except Exception:
            self._keep_logs()
            raise

    def _keep_logs(self) -> None:
        """The servers' own folders go with them."""
        for server in (*self.kafka.brokers, *self.zookeeper.members, *self.postgres.servers):
            name = f"{server.title} {server.address.replace(':', ' ')}.log"
            shutil.copy(server.log, self.installation.folder / name)

    def _harm(self, relays: Relays) -> None:
        deeds = [
            on_servers(self.postgres, self.kafka, self.zookeeper),
            on_relays(relays, self.proxies, self.journal),
        ]
        end = time.monotonic() + self.seconds
        with ThreadPoolExecutor(len(deeds)) as pool:
            lanes = [
                pool.submit(
                    work, lane, random.Random(self.chance.getrandbits(32)), end, self.journal
                )
                for lane in deeds
            ]
            wait(lanes, return_when=FIRST_EXCEPTION)
        for lane in lanes:
            lane.result()
        missing = [kind for lane in deeds for kind in lane if not self.journal.happened[kind]]
        assert not missing, f"never happened: {missing}"

    def _retry_dead_letters(self) -> None:
        wait_until(
            lambda: not self._backlog(),
            "all but what is dead is delivered",
            LIMIT_S,
            self.installation.command_line.said,
        )
        self.journal.count("dead letter", len(self.small.letters()))
        self.journal.note(f"{self.journal.happened['dead letter']} dead letters are retried")
        self.small.raise_limit()
        end = time.monotonic() + LIMIT_S
        while self.small.letters():
            assert time.monotonic() < end, f"still dead: {self.small.letters()[:5]}"
            self.installation.command_line.run("dead-letter", "retry", "--all")

    def _backlog(self) -> int:
        shards = self.installation.command_line.status()
        return sum(int(shard["backlog_messages"]) for shard in shards)

    def _judge(self, relays: Relays) -> None:
        made = self.installation
        wanted = {message.message_id for message in made.outbox.ledger()}
        kafka = made.servers.kafka
        with closing(TopicReader(kafka, made.all_topics, "read_committed")) as reader:
            reader.read_ids(wanted, LIMIT_S)
        made.wait_pruned()
        relays.assert_running()
        relays.stop()
        report = made.report()
        self.journal.note(str(report))
        assert report.committed and not report.findings, str(report)
        idle = [kind for kind in LOADS if not self.journal.happened[kind]]
        assert not idle, f"the load had none of: {idle}"
        self.journal.note(f"clean: {dict(sorted(self.journal.happened.items()))}")
