"""`onecommit demo bank`: on a server of its own, on a given one, and where it can't be shown."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from pathlib import Path

import psycopg
import pytest

from tests.servers import Postgres

from .command_line import BINARY, CONFIGURATION, UNREACHABLE
from .installation import Servers
from .waiting import LIMIT_S, RUN_LIMIT_S, wait_until

SHORT = ["--transfers", "40", "--kills", "2"]
CTRL_C = 130
FAULTS = ["torn", "wrong_sums", "lost", "duplicates", "phantom", "told_wrong"]
DATABASES = "select count(*) from pg_database where datname like 'onecommit_demo_%'"


def demo(tmp: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs it; its folders are made in `tmp`."""
    return subprocess.run(
        [str(BINARY), "demo", "bank", *SHORT, *words],
        cwd=tmp,
        env={**os.environ, "TMPDIR": str(tmp)},
        capture_output=True,
        text=True,
        timeout=RUN_LIMIT_S,
        check=False,
    )


def databases(server: str) -> int:
    """How many databases of demos are on a server."""
    with psycopg.connect(server) as conn:
        row = conn.execute(DATABASES).fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture
def short_tmp() -> Path:
    """A folder that a server run by another user may look into, for sockets have short paths."""
    made = Path(tempfile.mkdtemp(prefix="demo", dir="/tmp"))
    made.chmod(0o755)
    return made


def test_a_server_of_its_own(short_tmp: Path) -> None:
    done = demo(short_tmp)
    assert (done.returncode, done.stderr) == (0, "")
    assert "a PostgreSQL server of the demo's own" in done.stdout
    assert "killed 2 times with a transaction half done" in done.stdout
    assert "2000 then and 2000 now" in done.stdout
    assert "0 torn, 0 lost, 0 twice, 0 that never were, 0 told wrongly" in done.stdout
    assert "All or nothing, exactly once" in done.stdout
    short_tmp.rmdir()  # nothing is left


def test_a_server_that_is_given(servers: Servers, tmp_path: Path) -> None:
    done = demo(tmp_path, "--json", "--postgres", servers.postgres)
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert [told[fault] for fault in FAULTS] == [0] * len(FAULTS), told
    assert told["worker_kills"] == 2 <= told["left_committed"] + told["left_rolled_back"]
    assert told["committed"] >= 40 and told["delivered"] == told["committed"]
    assert told["money_before"] == [1000, 1000] and sum(told["money"]) == 2000
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    with Postgres() as server:
        words = ["demo", "bank", "--kills", "1000", "--postgres", server.dsn]
        env = {**os.environ, "TMPDIR": str(tmp_path)}
        with subprocess.Popen([str(BINARY), *words], cwd=tmp_path, env=env) as child:
            wait_until(lambda: databases(server.dsn) == 2, "it is at work")
            child.send_signal(signal.SIGINT)
            assert child.wait(LIMIT_S) == CTRL_C
        assert databases(server.dsn) == 0
        assert list(tmp_path.iterdir()) == []


def test_a_server_that_prepares_nothing(tmp_path: Path) -> None:
    with Postgres(settings={"max_prepared_transactions": "0"}) as server:
        done = demo(tmp_path, "--postgres", server.dsn)
        assert done.returncode == CONFIGURATION, done
        assert "max_prepared_transactions" in done.stderr and "--postgres" in done.stderr
        assert databases(server.dsn) == 0
    assert list(tmp_path.iterdir()) == []


def test_no_server(tmp_path: Path) -> None:
    done = demo(tmp_path, "--postgres", "postgresql://u:secret@127.0.0.1:1/postgres")
    assert done.returncode == UNREACHABLE and "127.0.0.1" in done.stderr, done
    assert "secret" not in done.stderr, done
    assert "left behind" not in done.stderr, done
    done = demo(tmp_path, "--postgres", "mysql://127.0.0.1/x")
    assert done.returncode == CONFIGURATION and "postgresql://" in done.stderr, done
    assert list(tmp_path.iterdir()) == []
