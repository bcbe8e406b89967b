"""Kafka with TLS, SASL and client certificates switched on: messages are delivered, what is wrong
is told clearly, and no secret is shown anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from .certificates import Authority
from .command_line import CONFIGURATION, CommandLine
from .installation import Installation, sqlite_to_kafka
from .secured_kafka import PASSWORD, Properties, Right, SecuredKafka
from .waiting import wait_until

EVERYTHING = [Right("ALL", kind, "*") for kind in ("TOPIC", "GROUP", "TRANSACTIONAL_ID")]
# Whatever is logged, no secret is in it.
TALKATIVE = {"ONECOMMIT_LOG": "trace"}
USERS = ["relay", "CN=relay"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def kafka(folder: Path) -> Iterator[SecuredKafka]:
    with SecuredKafka(folder) as kafka:
        kafka.make_user("relay")
        for user in USERS:
            kafka.allow(user, EVERYTHING)
        yield kafka


@pytest.fixture
def installation(kafka: SecuredKafka, tmp_path: Path) -> Iterator[Installation]:
    made = sqlite_to_kafka(kafka.address, tmp_path)
    yield made
    made.close()


def at(installation: Installation, properties: Properties) -> CommandLine:
    installation.configure(other={"kafka": properties})
    return installation.command_line


def run(command_line: CommandLine, *words: str) -> CompletedProcess[str]:
    """Runs a command that reaches Kafka; no secret is in what it says."""
    done = command_line.reached(*words, environment=TALKATIVE)
    assert PASSWORD not in done.stdout + done.stderr
    return done


def deliver(installation: Installation, properties: Properties) -> None:
    """Messages are delivered and read with these properties."""
    command_line = at(installation, properties)
    done = run(command_line, "init", "--topic", installation.topic, "--partitions", "3")
    assert done.returncode == 0, done.stderr
    installation.outbox.burst(installation.topic, 50)
    relay = command_line.relay(environment=TALKATIVE)
    installation.wait_delivered()
    arguments = Path(f"/proc/{relay.pid}/cmdline").read_bytes()
    assert arguments and PASSWORD.encode() not in arguments
    # Each partition's reader learns by itself that a transaction is committed.
    wait_until(
        lambda: "nothing waits" in run(command_line, "status").stdout, "its progress is seen"
    )
    read = run(
        command_line, "--json", "consume", installation.topic, "--from-beginning", "--max", "50"
    )
    assert len(read.stdout.splitlines()) == 50, read
    relay.stop()
    assert PASSWORD not in relay.text()
    installation.check_clean(50)


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "PLAIN"])
def test_messages_are_delivered_with_tls_and_a_password(
    installation: Installation, kafka: SecuredKafka, mechanism: str
) -> None:
    deliver(installation, kafka.properties(mechanism))


def test_messages_are_delivered_with_a_client_certificate(
    installation: Installation, kafka: SecuredKafka
) -> None:
    deliver(installation, mutual(kafka, kafka.authority))


def mutual(kafka: SecuredKafka, authority: Authority) -> Properties:
    own = authority.sign("relay")
    return {
        "bootstrap.servers": kafka.at("MUTUAL"),
        "security.protocol": "SSL",
        "ssl.ca.location": str(kafka.authority.certificate),
        "ssl.certificate.location": str(own.certificate),
        "ssl.key.location": str(own.key),
    }


def test_messages_are_delivered_with_a_token_that_librdkafka_makes(
    installation: Installation, kafka: SecuredKafka
) -> None:
    deliver(
        installation,
        {
            "bootstrap.servers": kafka.at("SASL"),
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "OAUTHBEARER",
            "enable.sasl.oauthbearer.unsecure.jwt": True,
            "sasl.oauthbearer.config": "principal=relay",
        },
    )


def test_what_is_missing_or_wrong_is_named(
    installation: Installation, kafka: SecuredKafka, folder: Path
) -> None:
    """Each case: the properties, and a piece of what the error has to say."""
    good = kafka.properties()
    other = Authority(folder, "other")
    refused = "refused the user, the password or the mechanism"
    cases: list[tuple[Properties, str]] = [
        ({**good, "sasl.password": f"not-{PASSWORD}"}, refused),
        ({**kafka.properties("PLAIN"), "sasl.password": f"not-{PASSWORD}"}, refused),
        ({**good, "sasl.mechanism": "SCRAM-SHA-256"}, refused),
        ({**good, "sasl.username": "nobody"}, refused),
        ({**good, "ssl.ca.location": str(other.certificate)}, "correct ssl.ca.location"),
        ({**good, "ssl.ca.location": str(folder / "none.crt")}, "ssl.ca.location failed"),
        (mutual(kafka, other), "does not accept this client's certificate"),
        ({**good, "sasl.oauthbearer.client.secret": PASSWORD}, "not supported in this build"),
    ]
    for properties, said in cases:
        done = run(at(installation, properties), "init")
        assert done.returncode == CONFIGURATION, (said, done.stderr)
        assert said in done.stderr, (properties, done.stderr)


def test_a_broker_that_speaks_otherwise_is_waited_for(
    installation: Installation, kafka: SecuredKafka
) -> None:
    """It can't be told from one that is only just starting; what else it may be is said."""
    command_line = at(installation, {"bootstrap.servers": kafka.at("SECURE")})
    command_line.unreached("or security.protocol", "init")
