"""Kafka with SASL/OAUTHBEARER: a command prints the tokens. The broker closes a connection whose
token is past its time, so messages go on only with renewed ones; no token is shown anywhere."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from .command_line import CONFIGURATION, UNREACHABLE
from .consume_process import consuming
from .installation import Installation, sqlite_to_kafka
from .secured_kafka import Properties, Right, SecuredKafka
from .waiting import wait_until

EVERYTHING = [Right("ALL", kind, "*") for kind in ("TOPIC", "GROUP", "TRANSACTIONAL_ID")]
# Whatever is logged, no token is in it.
TALKATIVE = {"ONECOMMIT_LOG": "trace"}
# librdkafka looks once a second whether the last fifth of this has begun: so long a busy machine
# has for making the next one.
LIFE_S = 30
WHO = "ONECOMMIT_TEST_WHO"
# Like a token endpoint's answer; the token is one that Kafka's own validator for trials takes.
ENDPOINT = """
import base64, json, os, sys, time
life = int(sys.argv[1])
def part(of):
    return base64.urlsafe_b64encode(json.dumps(of).encode()).rstrip(b"=").decode()
now = time.time()
claims = {"sub": "relay", "iat": now - 1, "exp": now + life, "run": time.time_ns()}
token = part({"alg": "none"}) + "." + part(claims) + "."
with open(sys.argv[2] + os.environ.get("ONECOMMIT_TEST_WHO", ""), "a") as noted:
    print(token, file=noted)
print(json.dumps({"access_token": token, "token_type": "Bearer", "expires_in": life}))
"""


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    with SecuredKafka(tmp_path_factory.mktemp("certificates")) as kafka:
        kafka.allow("relay", EVERYTHING)
        yield kafka


@pytest.fixture
def installation(kafka: SecuredKafka, tmp_path: Path) -> Iterator[Installation]:
    made = sqlite_to_kafka(kafka.address, tmp_path)
    yield made
    made.close()


class Tokens:
    """The command, and all tokens that it ever printed."""

    def __init__(self, folder: Path) -> None:
        self._script = folder / "endpoint.py"
        self._script.write_text(ENDPOINT)
        self.noted = folder / "tokens"

    def command(self, life_s: int = 3600) -> str:
        return f"{sys.executable} {self._script} {life_s} {self.noted}"

    def of(self, who: str = "") -> list[str]:
        """Those that were printed for one process, if it said who it is, or for all others."""
        file = Path(f"{self.noted}{who}")
        return file.read_text().split() if file.exists() else []

    def were_late(self, who: str = "") -> bool:
        """Whether one was made when the one before was all but over."""
        payloads = [token.split(".")[1] for token in self.of(who)]
        made = [json.loads(base64.urlsafe_b64decode(f"{part}=="))["iat"] for part in payloads]
        return any(after - before > 0.9 * LIFE_S for before, after in pairwise(made))

    def check_unseen(self, *texts: str) -> None:
        files = self.noted.parent.glob(f"{self.noted.name}*")
        printed = [token for file in files for token in file.read_text().split()]
        assert printed
        for text in texts:
            assert not [token for token in printed if token.rstrip(".") in text]


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path)


def at(kafka: SecuredKafka, command: str) -> Properties:
    return {
        "bootstrap.servers": kafka.at("SASL"),
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "OAUTHBEARER",
        "token.command": command,
    }


def run(installation: Installation, properties: Properties, *words: str) -> CompletedProcess[str]:
    """Runs a command that reaches Kafka with these properties."""
    installation.configure(other={"kafka": properties})
    return installation.command_line.reached(*words, environment=TALKATIVE)


def init(installation: Installation, properties: Properties) -> CompletedProcess[str]:
    done = run(installation, properties, "init", "--topic", installation.topic, "--partitions", "3")
    assert done.returncode == 0, done.stderr
    return done


def test_messages_go_on_while_tokens_come_and_go(
    installation: Installation, kafka: SecuredKafka, tokens: Tokens
) -> None:
    properties = at(kafka, tokens.command(LIFE_S))
    made = init(installation, properties)
    own = {**TALKATIVE, WHO: "-consumer"}
    words = ("--from-beginning", "--max", "100")
    with consuming(installation, *words, environment=own) as consumer:
        relay = installation.command_line.relay(environment=TALKATIVE)
        installation.outbox.burst(installation.topic, 50)
        installation.wait_delivered()
        begun = len(relay.text())
        before = len(tokens.of())
        wait_until(lambda: len(tokens.of()) >= before + 2, "the relay's token was renewed twice")
        wait_until(lambda: len(tokens.of("-consumer")) >= 3, "the consumer's token, too")
        installation.outbox.burst(installation.topic, 50)
        installation.wait_delivered()
        consumer.wait(lambda: len(consumer.ids()) == 100, "all is read")
        told = consumer.text()

    def nothing_waits() -> CompletedProcess[str] | None:
        """Each partition's reader learns by itself that a transaction is committed."""
        done = run(installation, properties, "status")
        return done if "nothing waits" in done.stdout else None

    status = wait_until(nothing_waits, "its progress is seen")
    relay.stop()
    # Neither needed to begin anew, but for a lease or a token that was late on a busy machine.
    for who, text in (("", relay.text()[begun:]), ("-consumer", told)):
        worse = [line for line in text.splitlines() if " WARN " in line or " ERROR " in line]
        assert all("lease" in line for line in worse) or tokens.were_late(who), worse
    tokens.check_unseen(made.stdout + made.stderr, status.stderr, relay.text(), told)
    installation.check_clean(100)


def test_a_relay_waits_until_there_is_a_token(
    installation: Installation, kafka: SecuredKafka, tokens: Tokens, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    properties = at(kafka, f"test -f {flag} && {tokens.command(LIFE_S)}")
    flag.touch()
    init(installation, properties)
    flag.unlink()
    relay = installation.command_line.relay(environment=TALKATIVE)
    relay.wait_for("`token.command` failed with exit status: 1")
    flag.touch()
    installation.outbox.burst(installation.topic, 50)
    installation.wait_delivered()
    flag.unlink()
    relay.wait_for("can't be renewed: the one of before is used")
    flag.touch()
    installation.outbox.burst(installation.topic, 50)
    installation.finish(relay, at_least=100)
    tokens.check_unseen(relay.text())


def test_what_is_wrong_with_a_token_is_told(
    installation: Installation, kafka: SecuredKafka, tokens: Tokens, tmp_path: Path
) -> None:
    """Each case: what the command is, how `init` ends, and a piece of what it says."""

    def prints(text: str) -> str:
        file = tmp_path / f"printed-{len(list(tmp_path.iterdir()))}"
        file.write_text(text)
        return f"cat {file}"

    cases = [
        ("exit 3", UNREACHABLE, "failed with exit status: 3"),
        ("no-such-program", CONFIGURATION, "run it by hand"),
        ("echo secret-of-the-command", UNREACHABLE, "did not print JSON"),
        (prints('{"expires_in": 60}'), UNREACHABLE, "no `access_token`"),
        (
            prints('{"access_token": "secret of the command", "expires_in": 60}'),
            UNREACHABLE,
            "one that is no token",
        ),
        (prints('{"access_token": "secret"}'), UNREACHABLE, "no `expires_in`"),
        ("head -c 100000 /dev/zero", UNREACHABLE, "more than 65536 bytes"),
        (
            prints('{"access_token": "secret-of-the-command", "expires_in": "60"}'),
            CONFIGURATION,
            "Kafka refused the token",
        ),
        (tokens.command(-5), UNREACHABLE, "no `expires_in`"),
    ]
    for command, code, said in cases:
        installation.configure(other={"kafka": at(kafka, command)})
        command_line = installation.command_line
        if code == UNREACHABLE:
            done = command_line.unreached(said, "init", environment=TALKATIVE)
        else:
            done = command_line.reached("init", environment=TALKATIVE)
        assert (done.returncode, said in done.stderr) == (code, True), (command, done)
        assert "secret" not in done.stdout + done.stderr, done


def test_what_takes_too_long_is_ended_with_all_that_it_started(
    installation: Installation, kafka: SecuredKafka, tmp_path: Path
) -> None:
    pid = tmp_path / "pid"
    installation.configure(other={"kafka": at(kafka, f"echo $$ > {pid}; sleep 300 | cat")})
    installation.command_line.unreached("took longer than 10 s", "init", environment=TALKATIVE)
    group = int(pid.read_text())

    wait_until(lambda: not running(group), "its process group is gone")


def running(group: int) -> list[str]:
    """The processes of a group. What is dead counts no more, whether it was waited for or not."""
    states = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # The name in parentheses may hold anything; state, parent and group follow it.
            state, _, of_group, *_ = stat.read_text().rpartition(")")[2].split()
            if int(of_group) == group and state != "Z":
                states.append(state)
    return states


def test_what_does_not_go_with_a_token_is_refused(
    installation: Installation, kafka: SecuredKafka, tokens: Tokens
) -> None:
    good = at(kafka, tokens.command())
    token = good.pop("token.command")
    cases: list[tuple[Properties, str]] = [
        (good, "OAUTHBEARER needs token.command"),
        (
            {**good, "token.command": token, "enable.sasl.oauthbearer.unsecure.jwt": True},
            "not both",
        ),
        ({**good, "token.command": " "}, "give a command"),
        ({**kafka.properties(), "token.command": token}, "needs sasl.mechanism OAUTHBEARER"),
        (
            {**good, "token.command": token, "security.protocol": "PLAINTEXT"},
            "security.protocol SASL_SSL",
        ),
    ]
    for properties, said in cases:
        done = run(installation, properties, "init")
        assert done.returncode == CONFIGURATION and said in done.stderr, (properties, done)
