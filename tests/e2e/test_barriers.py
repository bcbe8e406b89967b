"""What a window saw is durable in the database before Kafka is told of it."""

from __future__ import annotations

from .installation import PostgresInstallation
from .postgres_outbox import connect
from .test_relay import commit, key_in
from .waiting import wait_until

# A barrier's commit takes as long as the test likes: it waits for an advisory lock.
SLOW_COMMIT = """
create function slow() returns trigger language plpgsql as $$ begin
  perform pg_advisory_xact_lock(1);
  return null;
end $$;
create constraint trigger slow after insert on onecommit.barrier
  deferrable initially deferred for each row execute function slow()
"""


def test_nothing_is_delivered_before_its_barrier_is_durable(
    installation: PostgresInstallation,
) -> None:
    """A crash would take the window back, and hand out again the numbers that it saw."""
    relay = installation.relay()
    relay.wait_for("delivers shard=", times=installation.outbox.shards)
    installation.outbox.execute(SLOW_COMMIT)
    with connect(installation.database_url) as holder:
        holder.execute("select pg_advisory_lock(1)")
        commit(installation, installation.topic, key_in(0))

        def gave_up_or_delivered() -> bool:
            return "commit barrier" in relay.text() or installation.report().delivered > 0

        wait_until(gave_up_or_delivered, "the relay waits for the barrier", explain=relay.text)
        assert installation.report().delivered == 0, "delivered without a barrier"
    installation.finish(relay)
