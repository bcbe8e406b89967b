"""ZooKeeper with TLS, client certificates and digest users switched on: leases are kept there,
others are kept out, and what is wrong is told clearly."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from .certificates import Authority, Certificate
from .command_line import CONFIGURATION, REFUSED
from .installation import Installation, embedded
from .secured_zookeeper import SecuredZooKeeper
from .waiting import wait_until

PASSWORD = "s3cret-of-the-lease"
# Whatever is logged, no secret is in it.
TALKATIVE = {"ONECOMMIT_LOG": "trace"}
Zookeeper = dict[str, str | int | bool]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[SecuredZooKeeper]:
    with SecuredZooKeeper(folder) as server:
        yield server


@pytest.fixture(scope="module")
def certificate(server: SecuredZooKeeper) -> Certificate:
    return server.authority.sign("relay")


@pytest.fixture
def settings(server: SecuredZooKeeper, certificate: Certificate) -> Zookeeper:
    """How ZooKeeper is reached when all is well."""
    return {
        "servers": f"localhost:{server.secure_port}",
        "session_timeout_ms": 6000,  # a handshake on a busy machine takes its time
        "tls_ca": str(server.authority.certificate),
        "tls_cert": str(certificate.certificate),
        "tls_key": str(certificate.key),
        "user": "relay",
        "password": PASSWORD,
    }


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    made = embedded(tmp_path)
    yield made
    made.close()


def run(installation: Installation, settings: Zookeeper, *words: str) -> CompletedProcess[str]:
    """Runs a command that reaches ZooKeeper with these settings; no secret is in what it says."""
    installation.configure(other={"zookeeper": settings})
    done = installation.command_line.reached(*words, environment=TALKATIVE)
    assert PASSWORD not in done.stdout + done.stderr
    return done


def test_leases_are_kept_there_and_nobody_else_gets_at_them(
    installation: Installation, settings: Zookeeper, server: SecuredZooKeeper
) -> None:
    done = run(installation, settings, "init", "--topic", installation.topic)
    assert done.returncode == 0, done.stderr
    relay = installation.command_line.relay(environment=TALKATIVE)
    installation.outbox.burst(installation.topic, 50)
    installation.wait_delivered()
    wait_until(lambda: None not in installation.owners(), "the shard has an owner")
    # ZooKeeper takes the certificate for a user, too: whoever has it may do all that it may.
    own = server.authority.sign("stranger-let-in")
    known = {**settings, "tls_cert": str(own.certificate), "tls_key": str(own.key)}
    strangers = [
        {**known, "password": "another"},
        {**known, "user": "another"},
        {key: value for key, value in known.items() if key not in ("user", "password")},
    ]
    for stranger in strangers:
        for words in [("init",), ("status",), ("--json", "status")]:
            done = run(installation, stranger, *words)
            assert done.returncode == CONFIGURATION, done
            assert "correct [zookeeper] user and password" in done.stdout + done.stderr
    run(installation, settings, "status")

    def tells_the_version() -> bool:
        return " runs 3." in run(installation, settings, "--json", "doctor").stdout

    # It is given half a second to say so.
    wait_until(tells_the_version, "the doctor knows ZooKeeper's version")
    relay.stop()
    assert PASSWORD not in relay.text()
    installation.check_clean(50)


def test_what_is_missing_or_wrong_is_named(
    installation: Installation, settings: Zookeeper, folder: Path, server: SecuredZooKeeper
) -> None:
    """Each case: what is other than it should be, and a piece of what the error has to say."""
    other = Authority(folder, "other")
    stranger = other.sign("stranger")
    old = server.authority.sign("old", version_1=True)
    with_old = {"tls_cert": str(old.certificate), "tls_key": str(old.key)}
    with_stranger = {"tls_cert": str(stranger.certificate), "tls_key": str(stranger.key)}
    without_certificate = {
        key: value for key, value in settings.items() if key not in ("tls_cert", "tls_key")
    }
    elsewhere = f"127.0.0.1:{server.secure_port}"
    cases: list[tuple[Zookeeper, str]] = [
        ({**settings, "tls_ca": str(other.certificate)}, "none of the certificates in"),
        ({**settings, "tls_ca": str(folder / "none.crt")}, "tls_ca can't be read"),
        ({**settings, "tls_ca": str(stranger.key)}, "tls_ca has no certificate"),
        ({**settings, "servers": elsewhere}, "made for another host"),
        ({**settings, "servers": server.address}, "secureClientPort"),
        ({**settings, **with_stranger}, "does not accept this client's certificate"),
        (without_certificate, "does not accept this client's certificate"),
        ({**settings, "tls_key": str(other.certificate)}, "tls_key has no private key"),
        ({**settings, "tls_key": str(stranger.key)}, "does not belong to"),
        ({**settings, **with_old}, "or is of version 1"),
        ({**settings, "servers": "not..a.name:1"}, "is no host"),
    ]
    for changed, said in cases:
        done = run(installation, changed, "init")
        assert done.returncode == CONFIGURATION, (changed, done)
        assert said in done.stderr, (changed, done.stderr)


def test_a_secure_port_without_tls_is_waited_for(
    installation: Installation, settings: Zookeeper
) -> None:
    plain = {key: value for key, value in settings.items() if not key.startswith("tls_")}
    installation.configure(other={"zookeeper": plain})
    told = installation.command_line.unreached(
        "ZooKeeper does not answer", "init", environment=TALKATIVE
    )
    assert PASSWORD not in told.stdout + told.stderr


def test_nodes_from_before_there_was_a_user_are_warned_of_refused_and_mended(
    installation: Installation, settings: Zookeeper
) -> None:
    """By TLS, below a chroot: first without a user, then with one, then asking for its rights."""
    below = {**settings, "chroot": "/apps/secured"}
    nobody = {key: value for key, value in below.items() if key not in ("user", "password")}
    strict = {**below, "require_acl": True}
    done = run(installation, nobody, "init", "--topic", installation.topic)
    assert done.returncode == 0, done.stderr
    installation.deliver(5)

    found = exposed(run(installation, below, "--json", "status"))
    root = f"/apps/secured/onecommit/{installation.name}"
    assert found["exposed_nodes"] > 3 and found["exposed_examples"][0] == root, found
    told = run(installation, below, "status")
    assert "warning: ZooKeeper: anybody may change" in told.stdout, told
    assert "run `onecommit init`" in told.stdout, told
    doctor = run(installation, below, "doctor").stdout
    assert "warning  ZooKeeper: anybody may change" in doctor, doctor

    for words in [("relay",), ("status",)]:
        done = run(installation, strict, *words)
        assert done.returncode == REFUSED, done
        assert f"nodes, {root}, " in done.stdout + done.stderr, done

    done = run(installation, strict, "init")
    # ZooKeeper removes empty containers at times of its own, so these may be fewer than before.
    mended = re.search(r"ZooKeeper: (\d+) nodes that anybody could change", done.stdout)
    assert mended is not None and 0 < int(mended[1]) <= found["exposed_nodes"], done
    assert exposed(run(installation, strict, "--json", "status"))["exposed_nodes"] == 0
    assert "no node may be changed by anybody" in run(installation, strict, "doctor").stdout
    installation.deliver(5)
    installation.check_clean(10)


def exposed(done: CompletedProcess[str]) -> dict[str, Any]:
    """What `status` says of nodes that anybody may change."""
    assert done.returncode == 0, done
    found: dict[str, Any] = json.loads(done.stdout)["zookeeper"]
    return found
