"""The real servers' programs, from package registries only, kept in `.servers/` of the repository.

Kafka, ZooKeeper and the oldest and newest PostgreSQL come from Maven Central (needs `mvn`),
PostgreSQL 15 from apt, installed only where it is missing. A finished folder appears by one
rename, together with the pom it was made from, so a fetch that was interrupted starts over and one
that was finished costs nothing. Fetches in several processes wait for each other.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .process import ServerError

CACHE = Path(__file__).resolve().parents[2] / ".servers"
APT_POSTGRES = "15"
APT_PROGRAMS = Path(f"/usr/lib/postgresql/{APT_POSTGRES}/bin")
EMBEDDED_POSTGRES = {"13": "13.22.0", "17": "17.6.0", "18": "18.0.0"}
EMBEDDED_PLATFORMS = {"x86_64": "amd64", "aarch64": "arm64v8"}

KAFKA = "4.3.0"
KAFKA_LOG4J = {"4.2.0": "2.25.1", "4.3.0": "2.25.4"}  # each Kafka's own
ZOOKEEPER = "3.9.4"
ZOOKEEPER_JARS = (
    f"org.apache.zookeeper:zookeeper:{ZOOKEEPER}",
    # the first two are needed at start, the last one for a log, and none is a dependency of it
    "io.dropwizard.metrics:metrics-core:4.2.33",
    "org.xerial.snappy:snappy-java:1.1.10.7",
    "ch.qos.logback:logback-classic:1.3.15",
)
COPY_JARS = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"


def kafka_jars(version: str = KAFKA) -> Path:
    """A folder with Kafka's jars and those of its command-line tools."""
    if version not in KAFKA_LOG4J:
        raise ServerError(f"no Kafka {version}: known versions are {', '.join(KAFKA_LOG4J)}")
    jars = [
        f"org.apache.kafka:kafka_2.13:{version}",
        f"org.apache.kafka:kafka-tools:{version}",
        f"org.apache.logging.log4j:log4j-slf4j-impl:{KAFKA_LOG4J[version]}",
    ]
    return _fetched(f"kafka-{version}", jars, _keep_jars)


def zookeeper_jars() -> Path:
    """A folder with ZooKeeper's jars."""
    return _fetched(f"zookeeper-{ZOOKEEPER}", ZOOKEEPER_JARS, _keep_jars)


def postgres_programs(version: str) -> Path:
    """A folder with `initdb` and `postgres` of a major version."""
    if version == APT_POSTGRES:
        return _apt_postgres()
    machine = EMBEDDED_PLATFORMS.get(platform.machine())
    if version not in EMBEDDED_POSTGRES or machine is None:
        known = ", ".join(sorted([APT_POSTGRES, *EMBEDDED_POSTGRES]))
        raise ServerError(
            f"no PostgreSQL {version} for {platform.machine()}: known versions are {known}, "
            f"known machines {', '.join(EMBEDDED_PLATFORMS)}"
        )
    full = EMBEDDED_POSTGRES[version]
    jar = f"io.zonky.test.postgres:embedded-postgres-binaries-linux-{machine}:{full}"
    return _fetched(f"postgresql-{full}", [jar], _unpack_postgres) / "bin"


def _fetched(name: str, jars: Sequence[str], finish: Callable[[Path, Path], None]) -> Path:
    target = CACHE / name
    pom = _pom(name, jars)
    if _is_finished(target, pom):
        return target
    with _only_one_fetch():
        if _is_finished(target, pom):
            return target
        with tempfile.TemporaryDirectory(prefix="unfinished-", dir=CACHE) as work:
            made = Path(work) / "made"
            made.mkdir()
            (made / "pom.xml").write_text(pom)
            downloaded = Path(work) / "jars"
            maven = ["mvn", "-q", "-B", "-f", str(made / "pom.xml"), COPY_JARS]
            _run([*maven, f"-DoutputDirectory={downloaded}"], "Maven, as in: apt-get install maven")
            finish(downloaded, made)
            shutil.rmtree(target, ignore_errors=True)
            made.rename(target)
    return target


def _is_finished(target: Path, pom: str) -> bool:
    try:
        return (target / "pom.xml").read_text() == pom
    except OSError:
        return False


@contextlib.contextmanager
def _only_one_fetch() -> Iterator[None]:
    """Maven's own folder does not bear two downloads of one jar at once."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in CACHE.glob("unfinished-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield


def _pom(name: str, jars: Sequence[str]) -> str:
    dependencies = "".join(
        "<dependency><groupId>{}</groupId><artifactId>{}</artifactId>"
        "<version>{}</version></dependency>\n".format(*jar.split(":"))
        for jar in jars
    )
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0">\n'
        "<modelVersion>4.0.0</modelVersion>\n"
        f"<groupId>onecommit.tests</groupId><artifactId>{name}</artifactId>"
        "<version>1</version>\n"
        f"<dependencies>\n{dependencies}</dependencies>\n</project>\n"
    )


def _keep_jars(downloaded: Path, made: Path) -> None:
    for jar in downloaded.iterdir():
        jar.rename(made / jar.name)


def _unpack_postgres(downloaded: Path, made: Path) -> None:
    jar = next(downloaded.glob("embedded-postgres-binaries-*.jar"))
    with zipfile.ZipFile(jar) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".txz"))
        with archive.open(name) as packed, tarfile.open(fileobj=packed, mode="r:xz") as files:
            if hasattr(tarfile, "data_filter"):  # Python 3.10.12, 3.11.4 and newer
                files.extractall(made, filter="data")
            else:
                files.extractall(made)


def _apt_postgres() -> Path:
    if (APT_PROGRAMS / "postgres").exists():
        return APT_PROGRAMS
    package = f"postgresql-{APT_POSTGRES}"
    if os.geteuid() != 0:
        raise ServerError(
            f"PostgreSQL {APT_POSTGRES} is missing: run `apt-get install -y {package}` as root"
        )
    with _only_one_fetch():
        if not (APT_PROGRAMS / "postgres").exists():
            quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            _run(["apt-get", "update"], "apt", quiet)
            _run(["apt-get", "install", "-y", package], "apt", quiet)
    return APT_PROGRAMS


def _run(command: Sequence[str], needs: str, environment: dict[str, str] | None = None) -> None:
    try:
        done = subprocess.run(
            command,
            check=False,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    except FileNotFoundError:
        raise ServerError(f"{command[0]} is missing; this needs {needs}") from None
    if done.returncode != 0:
        end = "\n".join(done.stdout.splitlines()[-30:])
        raise ServerError(
            f"`{' '.join(command)}` failed with status {done.returncode}; this needs {needs} "
            f"and the network\n{end}"
        )
