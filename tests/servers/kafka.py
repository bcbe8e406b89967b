"""Real Kafka brokers in KRaft mode: one by default, or several that form one cluster.

Every broker has a listener for clients, which may be advertised under another port (a fault
proxy's), and one for itself and its fellow brokers, so that a fault between client and broker is
only that. Promises that topics are never made by accident, and that `start` returns when each
broker answers clients, a controller is elected, and every broker knows all the others.

A trap for tests that kill: when the only broker of Kafka 4.3.0 dies between a commit's answer and
its markers, the restarted broker can take the partitions for deleted and never write the markers,
so that committed messages stay invisible to `read_committed` for ever (KAFKA-20734, new in 4.3).
Such a test takes `version="4.2.0"`, or three brokers and kills one.
"""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from .fetch import KAFKA, kafka_jars
from .java import QUICK, java
from .kafka_wire import ask_cluster
from .ports import free_port
from .process import ServerError, tail
from .server import Server
from .started import Started

LOGGING = """status = WARN
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %-5p %c{1} %m%n
rootLogger.level = INFO
rootLogger.appenderRef.out.ref = out
"""

# A killed broker is let in again only when its old session has run out: 12 s with Kafka's own
# settings, 5 s with these. Not the default, as a busy machine may then lose a living broker.
QUICK_RETURN = {"broker.session.timeout.ms": "3000", "broker.heartbeat.interval.ms": "500"}


class Broker(Server):
    """One broker, which is also a controller. Made by `Kafka`."""

    def __init__(
        self,
        node: int,
        advertised_port: int | None,
        heap: str,
        version: str,
        listeners: Mapping[str, str],
        options: Sequence[str],
    ) -> None:
        super().__init__(f"Kafka broker {node}")
        self.node = node
        self.port = free_port()
        self.internal_port = free_port()
        self.controller_port = free_port()
        self.advertised_port = self.port if advertised_port is None else advertised_port
        self.ports = {name: free_port() for name in listeners}
        self._listeners = listeners
        self._heap = heap
        self._version = version
        self._options = options
        self._jars = Path()
        self._cluster_id = ""
        self._properties: dict[str, str] = {}

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def join(self, cluster_id: str, fellows: Sequence[Broker], extra: Mapping[str, str]) -> None:
        """Says which cluster this broker belongs to; before its first start."""
        copies = str(min(3, len(fellows)))
        in_sync = "2" if copies == "3" else "1"
        others = "".join(f",{name}://localhost:{port}" for name, port in self.ports.items())
        protocols = "".join(f",{name}:{kind}" for name, kind in self._listeners.items())
        self._cluster_id = cluster_id
        self._properties = {
            "process.roles": "broker,controller",
            "node.id": str(self.node),
            "controller.quorum.voters": ",".join(
                f"{fellow.node}@127.0.0.1:{fellow.controller_port}" for fellow in fellows
            ),
            "listeners": (
                f"CLIENT://127.0.0.1:{self.port},INTERNAL://127.0.0.1:{self.internal_port},"
                f"CONTROLLER://127.0.0.1:{self.controller_port}{others}"
            ),
            "advertised.listeners": (
                f"CLIENT://127.0.0.1:{self.advertised_port},"
                f"INTERNAL://127.0.0.1:{self.internal_port}{others}"
            ),
            "listener.security.protocol.map": (
                f"CLIENT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT{protocols}"
            ),
            "inter.broker.listener.name": "INTERNAL",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(self.folder / "data"),
            # Kafka's default: that no client of ours makes a topic unasked is theirs to ensure.
            "auto.create.topics.enable": "true",
            "offsets.topic.replication.factor": copies,
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": in_sync,
            "default.replication.factor": copies,
            "min.insync.replicas": in_sync,
            "group.initial.rebalance.delay.ms": "0",
            **extra,
        }

    def wipe(self, cluster_id: str) -> None:
        """Kills it and forgets its data: it starts as a broker of another cluster."""
        self.kill()
        shutil.rmtree(self.folder / "data")
        self._cluster_id = cluster_id
        self._prepare()

    def _fetch(self) -> None:
        self._jars = kafka_jars(self._version)

    def _prepare(self) -> None:
        lines = [f"{name}={value}\n" for name, value in self._properties.items()]
        (self.folder / "server.properties").write_text("".join(lines))
        (self.folder / "log4j2.properties").write_text(LOGGING)
        log = self.folder / "format.log"
        command = java(self._jars, self.folder, "256m", QUICK, "kafka.tools.StorageTool")
        command += ["format", "-t", self._cluster_id, "-c", "server.properties"]
        if self._run(command, log, self.farewell).wait() != 0:
            raise ServerError(f"formatting the storage of {self.title} failed\n{tail(log)}")

    def _command(self) -> Sequence[str]:
        logging = f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}"
        options = [logging, *self._options]
        start = java(self._jars, self.folder, self._heap, options, "kafka.Kafka")
        return [*start, "server.properties"]

    def _ask(self) -> None:
        self.expect([self])

    def expect(self, fellows: Sequence[Broker]) -> None:
        """Asks this broker for its cluster; raises ValueError while a fellow is missing there."""
        cluster = ask_cluster(self.port)
        for fellow in fellows:
            if cluster.brokers.get(fellow.node) != ("127.0.0.1", fellow.advertised_port):
                raise ValueError(f"the controller has not let broker {fellow.node} in yet")
        if cluster.controller not in cluster.brokers:
            raise ValueError("no controller is elected yet")


class Kafka(Started):
    """A cluster. Its methods act on all brokers; `brokers[n]` can be stopped or killed alone.

    `properties` are added to, or replace, each broker's; `QUICK_RETURN` is for tests that kill.
    `address` lists the clients' listeners. `internal_address` lists those that are never
    advertised under another port, for a test that watches a cluster behind a fault proxy.
    `listeners` are more of them, at `localhost`: each one's name, and what is spoken there.
    `options` are the Java machine's; without those that start it quickly it is fast in the end.
    """

    def __init__(
        self,
        brokers: int = 1,
        *,
        heap: str = "512m",
        version: str = KAFKA,
        properties: Mapping[str, str] | None = None,
        advertised_ports: Sequence[int] | None = None,
        listeners: Mapping[str, str] | None = None,
        options: Sequence[str] = QUICK,
    ) -> None:
        ports: Sequence[int | None] = advertised_ports or [None] * brokers
        if len(ports) != brokers:
            raise ValueError(f"{len(ports)} advertised ports for {brokers} brokers")
        self.brokers = [
            Broker(node, port, heap, version, listeners or {}, options)
            for node, port in enumerate(ports, start=1)
        ]
        cluster_id = _new_cluster_id()
        for broker in self.brokers:
            broker.join(cluster_id, self.brokers, properties or {})

    @property
    def address(self) -> str:
        return ",".join(broker.address for broker in self.brokers)

    @property
    def internal_address(self) -> str:
        return ",".join(f"127.0.0.1:{broker.internal_port}" for broker in self.brokers)

    def start(self) -> None:
        """Launches all, then waits for each: no controller is elected before most of them run."""
        for broker in self.brokers:
            broker.launch()
        for broker in self.brokers:
            broker.wait_until_answering(partial(broker.expect, self.brokers))

    def stop(self) -> None:
        """Asks all at once: the last ones would wait for a controller that is gone already."""
        for broker in self.brokers:
            broker.ask_to_stop()
        for broker in self.brokers:
            broker.wait_until_stopped()

    def kill(self) -> None:
        for broker in self.brokers:
            broker.kill()

    def restart(self) -> None:
        self.stop()
        self.start()

    def wipe(self) -> None:
        """Puts another cluster, without anything in it, at the same addresses."""
        cluster_id = _new_cluster_id()
        for broker in self.brokers:
            broker.wipe(cluster_id)
        self.start()

    def pause(self) -> None:
        for broker in self.brokers:
            broker.pause()

    def resume(self) -> None:
        for broker in self.brokers:
            broker.resume()

    def close(self) -> None:
        for broker in self.brokers:
            broker.close()


def _new_cluster_id() -> str:
    """A random id as Kafka writes them; a leading dash would look like an option to its tool."""
    return "o" + base64.urlsafe_b64encode(os.urandom(16)).decode()[1:22]
