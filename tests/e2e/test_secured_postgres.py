"""PostgreSQL with TLS, SCRAM passwords and client certificates switched on: everything runs through
it as the url says, what is wrong is told clearly, and no secret is shown anywhere."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from subprocess import CompletedProcess

import psycopg
import pytest

from .certificates import Authority, Certificate
from .command_line import CONFIGURATION, CommandLine, RelayProcess
from .installation import Installation, Servers, Table, postgres_to_topic_log
from .postgres_outbox import Connection
from .secured_postgres import PASSWORD, SecuredPostgres
from .test_connections import LEASE, standby_dead
from .waiting import wait_until

VERIFY_FULL = "sslmode=verify-full"
EXPIRED = -1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[SecuredPostgres]:
    with SecuredPostgres(folder) as server:
        server.make_roles()
        yield server


@pytest.fixture(scope="module")
def certificate(server: SecuredPostgres) -> Certificate:
    return server.authority.sign("certified", version_1=True)


@pytest.fixture
def place(server: SecuredPostgres, tmp_path: Path) -> Iterator[Place]:
    installation = postgres_to_topic_log(Servers(server.dsn, "", ""), tmp_path)
    made = Place(server, installation, tmp_path)
    yield made
    made.close()


class Place:
    """One installation, whose program under test comes in as the tests say."""

    def __init__(self, server: SecuredPostgres, installation: Installation, folder: Path) -> None:
        self.server = server
        self.installation = installation
        # A handshake on a busy machine takes its time, and half of this is what it is given.
        installation.relay_settings["lease_timeout_ms"] = 5000
        self.name = installation.name
        self.home = folder / "home"
        self.home.mkdir()
        self._folder = folder
        server.query(f"grant create on database {self.name} to relay, plain, certified")
        # Whatever is logged, no secret is in it.
        talkative = {"ONECOMMIT_LOG": "trace"}
        self.environment = {
            **os.environ,
            **talkative,
            "HOME": str(self.home),
            "PGPASSWORD": PASSWORD,
        }
        self._relays: list[RelayProcess] = []

    def at(self, url: str, environment: Mapping[str, str] | None = None) -> CommandLine:
        """The command line of a configuration with this url."""
        table: Table = {"url": url, "outbox": True, "shards": 2}
        configuration = self.installation.configure(other={"participants.main": table})
        self.environment.update(environment or {})
        return CommandLine(self._folder, configuration)

    def url(self, query: str, user: str = "relay", host: str = "localhost") -> str:
        return self.server.url(self.name, user, query, host)

    def run(self, command_line: CommandLine, *words: str) -> CompletedProcess[str]:
        """Runs a command that hears the server out; no secret is in what it says. A server that
        refuses a client closes the connection, and where that overtakes what it says, TCP throws
        away what it says: it was not reached."""
        done = command_line.reached(*words, environment=self.environment)
        assert PASSWORD not in done.stdout + done.stderr
        return done

    def succeed(self, command_line: CommandLine, *words: str) -> str:
        done = self.run(command_line, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def deliver(self, command_line: CommandLine, who: tuple[str, bool]) -> None:
        """Messages are delivered, and every connection was this user's, with TLS or without."""
        topic = self.installation.topic
        self.succeed(command_line, "init", "--topic", topic, "--partitions", "3")
        self.installation.outbox.burst(topic, 100)
        relay = self.relay(command_line)
        self.installation.wait_delivered()
        assert self.server.connections(self.name) == {who}
        arguments = Path(f"/proc/{relay.pid}/cmdline").read_bytes()
        assert arguments and PASSWORD.encode() not in arguments
        assert "nothing waits" in self.succeed(command_line, "status")
        read = ("consume", topic, "--from-beginning", "--max", "100")
        assert len(self.succeed(command_line, "--json", *read).splitlines()) == 100
        relay.stop()
        assert PASSWORD not in relay.text()
        self.installation.check_clean(100)

    def relay(self, command_line: CommandLine) -> RelayProcess:
        relay = command_line.relay(environment=self.environment)
        self._relays.append(relay)
        return relay

    def close(self) -> None:
        for relay in self._relays:
            relay.kill()
        self.installation.close()


def root(server: SecuredPostgres) -> str:
    return f"sslrootcert={server.authority.certificate}"


def test_everything_runs_with_a_verified_host_and_a_password(place: Place) -> None:
    url = place.url(f"{VERIFY_FULL}&{root(place.server)}")
    place.deliver(place.at(url), ("relay", True))


def test_a_client_certificate_stands_for_a_password(place: Place, certificate: Certificate) -> None:
    del place.environment["PGPASSWORD"]
    own = f"sslcert={certificate.certificate}&sslkey={certificate.key}"
    url = place.url(f"{VERIFY_FULL}&{root(place.server)}&{own}", user="certified")
    place.deliver(place.at(url), ("certified", True))


def test_files_and_passwords_are_found_where_libpq_finds_them(place: Place) -> None:
    del place.environment["PGPASSWORD"]
    below = place.home / ".postgresql"
    below.mkdir()
    (below / "root.crt").write_bytes(place.server.authority.certificate.read_bytes())
    passwords = place.home / ".pgpass"
    passwords.write_text(f"localhost:*:*:relay:{PASSWORD}\n")
    passwords.chmod(0o600)
    place.deliver(place.at(place.url(VERIFY_FULL)), ("relay", True))


def test_a_request_that_is_given_up_is_cancelled_through_tls(place: Place) -> None:
    url = place.url(f"{VERIFY_FULL}&{root(place.server)}")
    place.succeed(place.at(url), "init", "--topic", place.installation.topic)
    place.installation.relay_settings["request_timeout_ms"] = 1000
    relay = place.relay(place.at(url))
    relay.wait_for("delivers", times=2)
    database = place.server.database_url(place.name)
    with (
        psycopg.connect(database, autocommit=True) as looking,
        psycopg.connect(database, autocommit=True) as connection,
        standby_dead(connection),
    ):
        held = wait_until(lambda: waiting(looking), "a lease's commit waits", explain=relay.text)
        # Uncancelled it would wait for as long as the standby is dead, its client gone or not.
        gone = "its backend ends"
        wait_until(lambda: not held & waiting(looking), gone, explain=relay.text)
    place.installation.outbox.burst(place.installation.topic, 10)
    place.installation.wait_delivered()
    relay.stop()


def waiting(looking: Connection) -> set[object]:
    """The backends of leases whose commit waits for a standby."""
    sql = "select pid from pg_stat_activity where application_name = %s and wait_event = 'SyncRep'"
    return {row[0] for row in looking.execute(sql, [LEASE]).fetchall()}


@pytest.mark.parametrize(
    ("query", "user", "tls"),
    [
        ("", "relay", True),
        ("", "plain", False),
        ("sslmode=prefer", "plain", False),
        ("sslmode=allow", "relay", True),
        ("sslmode=allow", "plain", False),
        ("sslmode=disable", "plain", False),
        ("sslmode=require", "relay", True),
    ],
)
def test_the_mode_decides_what_is_tried(place: Place, query: str, user: str, tls: bool) -> None:
    place.deliver(place.at(place.url(query, user)), (user, tls))


def test_a_certificate_for_another_host_is_refused_by_verify_full_alone(place: Place) -> None:
    query = f"{root(place.server)}&sslmode="
    full = place.run(place.at(place.url(f"{query}verify-full", host="127.0.0.1")), "init")
    assert full.returncode == CONFIGURATION
    assert "made for another host" in full.stderr and "IP address mismatch" in full.stderr
    place.succeed(place.at(place.url(f"{query}verify-ca", host="127.0.0.1")), "init")


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_another_authority_is_not_believed(place: Place, folder: Path, mode: str) -> None:
    other = Authority(folder, f"other-{mode}").certificate
    done = place.run(place.at(place.url(f"sslmode={mode}&sslrootcert={other}")), "init")
    assert done.returncode == CONFIGURATION
    assert "none of the root certificates has signed" in done.stderr, done.stderr


def test_what_is_missing_or_wrong_is_named(
    place: Place, folder: Path, certificate: Certificate, server: SecuredPostgres
) -> None:
    """Each case: what is wrong, and a piece of what the error has to say."""
    verified = f"{VERIFY_FULL}&{root(server)}"
    expired = server.authority.sign("expired", days=EXPIRED)
    stranger = Authority(folder, "stranger").sign("certified-by-a-stranger")
    open_key = folder / "open.key"
    open_key.write_bytes(certificate.key.read_bytes())
    open_key.chmod(0o644)

    def with_certificate(one: Certificate, key: Path | None = None) -> str:
        query = f"{verified}&sslcert={one.certificate}&sslkey={key or one.key}"
        return place.url(query, user="certified")

    cases = {
        place.url(VERIFY_FULL): "write sslrootcert=FILE",
        place.url("sslmode=verify-ca"): "write sslrootcert=FILE",
        place.url(f"{VERIFY_FULL}&sslrootcert={folder}/none.crt"): "none.crt",
        place.url("sslrootcert=system"): "none of the root certificates has signed",
        place.url("sslmode=require&sslrootcert=system"): "write sslmode=verify-full",
        place.url(verified, user="certified"): "a client certificate (sslcert)",
        place.url("sslmode=disable"): "TLS (sslmode)",
        with_certificate(expired): "it has expired",
        with_certificate(stranger): "no authority that it knows",
        with_certificate(certificate, open_key): "chmod 600",
        with_certificate(certificate, stranger.key): "does not belong to the certificate",
        with_certificate(certificate, folder / "none.key"): "can't be read",
        place.url(f"{verified}&sslcert={certificate.certificate}"): "needs its private key",
        place.url(f"{verified}&sslpassword=x"): "sslpassword is no parameter",
    }
    for url, said in cases.items():
        done = place.run(place.at(url), "init")
        assert done.returncode == CONFIGURATION, (url, done)
        assert said in done.stderr, (url, done.stderr)


def test_a_wrong_password_is_told_and_never_shown(place: Place) -> None:
    url = place.url(f"{VERIFY_FULL}&{root(place.server)}")
    wrong = f"not-{PASSWORD}"
    in_url = url.replace("relay@", f"relay:{wrong}@")
    for command_line in [place.at(in_url), place.at(url, {"PGPASSWORD": wrong})]:
        for words in [("init",), ("status",), ("--json", "status"), ("relay",)]:
            done = place.run(command_line, *words)
            assert done.returncode == CONFIGURATION, done
            assert "refused the user or the password" in done.stdout + done.stderr


def test_a_missing_password_is_asked_for(place: Place) -> None:
    del place.environment["PGPASSWORD"]
    command_line = place.at(place.url(f"{VERIFY_FULL}&{root(place.server)}"))
    assert "asks for a password" in place.run(command_line, "init").stderr
    passwords = place.home / "passwords"
    passwords.write_text(f"*:*:*:*:{PASSWORD}\n")
    passwords.chmod(0o644)
    place.environment["PGPASSFILE"] = str(passwords)
    done = place.run(command_line, "init")
    assert done.returncode == CONFIGURATION
    assert "asks for a password" in done.stderr and "chmod 600" in done.stderr
    passwords.chmod(0o600)
    place.succeed(command_line, "init")
