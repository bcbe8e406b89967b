"""Who does what goes wrong: two threads, one for the servers and one for the relays.

Promises that everything planned happens at least once, in an order by chance, and then more of it
by chance until the time is over; and that no server of a cluster is harmed while another is away.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from functools import partial

from confluent_kafka.admin import AdminClient

from tests.servers import Ensemble, Kafka, ZooKeeper

from ..kafka_topics import REQUEST_LIMIT_S
from ..tcp_proxy import NetworkFault
from ..waiting import wait_until
from .journal import Journal
from .postgres_pair import PostgresPair
from .relays import Proxies, Relays

# Of a broker's return and its catching up, with all of them busy on few cores.
RETURN_LIMIT_S = 180.0
Deeds = Mapping[str, Callable[[random.Random], None]]


def work(deeds: Deeds, chance: random.Random, end: float, journal: Journal) -> None:
    """Does each deed once, and then others until `end` on the monotonic clock."""
    planned = sorted(deeds)
    chance.shuffle(planned)
    while planned or time.monotonic() < end:
        name = planned.pop() if planned else chance.choice(sorted(deeds))
        journal.note(f"{name} begins")
        deeds[name](chance)
        journal.note(f"{name} is over")
        journal.count(name)
        time.sleep(chance.uniform(0.0, 0.5))


def on_servers(postgres: PostgresPair, kafka: Kafka, zookeeper: Ensemble) -> Deeds:
    """What happens to servers."""
    return {
        "PostgreSQL backend killed": postgres.kill_backend,
        "PostgreSQL crashed": lambda chance: postgres.crash(chance.uniform(0.0, 2.0)),
        "PostgreSQL's standby promoted": postgres.fail_over,
        "Kafka's leader killed": partial(_kill_kafka_leader, kafka),
        "ZooKeeper's leader killed": partial(_kill_zookeeper_leader, zookeeper),
    }


def on_relays(relays: Relays, proxies: Proxies, journal: Journal) -> Deeds:
    """What happens to relays."""

    def meet(server: str, fault: NetworkFault, chance: random.Random) -> None:
        hits = proxies.meet(server, fault, chance.uniform(0.2, 3.0))
        journal.note(f"{fault.name} of {server} hit {hits} times")

    return {
        "relay killed": lambda chance: relays.kill(chance, chance.uniform(0.0, 3.0)),
        "relay paused": lambda chance: relays.pause(chance, chance.uniform(0.2, 5.0)),
        **{
            f"relay meets {fault.name} of {server}": partial(meet, server, fault)
            for fault in NetworkFault
            for server in proxies.to
        },
    }


def _kill_kafka_leader(kafka: Kafka, chance: random.Random) -> None:
    """A broker that leads a partition, and coordinates transactions as all do."""
    admin = AdminClient({"bootstrap.servers": kafka.internal_address})
    topics = admin.list_topics(timeout=REQUEST_LIMIT_S).topics
    leaders = sorted({p.leader for topic in topics.values() for p in topic.partitions.values()})
    victim = chance.choice([broker for broker in kafka.brokers if broker.node in leaders])
    victim.kill()
    time.sleep(chance.uniform(0.5, 4.0))
    victim.start()
    wait_until(partial(_all_in_sync, admin), "all replicas are in sync", RETURN_LIMIT_S)


def _all_in_sync(admin: AdminClient) -> bool:
    topics = admin.list_topics(timeout=REQUEST_LIMIT_S).topics
    partitions = [p for topic in topics.values() for p in topic.partitions.values()]
    return all(set(p.isrs) == set(p.replicas) and p.leader >= 0 for p in partitions)


def _kill_zookeeper_leader(zookeeper: Ensemble, chance: random.Random) -> None:
    leader = wait_until(partial(_leader, zookeeper), "ZooKeeper has a leader")
    leader.kill()
    time.sleep(chance.uniform(0.2, 2.0))
    leader.start()


def _leader(zookeeper: Ensemble) -> ZooKeeper | None:
    """None while one is elected."""
    try:
        return zookeeper.leader()
    except (OSError, ValueError):
        return None
