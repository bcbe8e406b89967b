"""What importing Onecommit does, and does not do."""

from __future__ import annotations

import subprocess
import sys


def test_importing_loads_no_driver_and_starts_no_thread() -> None:
    program = """if True:
        import os, sys
        before = len(os.listdir("/proc/self/task"))
        import onecommit
        loaded = sys.modules.keys() & {"psycopg", "sqlite3", "asyncio"}
        print(len(os.listdir("/proc/self/task")) - before, sorted(loaded))
    """
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert (ran.stdout, ran.stderr) == ("0 []\n", "")


def test_publishing_loads_only_the_driver_in_use() -> None:
    program = """if True:
        import sqlite3, sys, onecommit
        try:
            onecommit.Outbox().publish(sqlite3.connect(":memory:"), "t")
        except onecommit.ConfigurationError:
            print("psycopg" in sys.modules)
    """
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout == "False\n"
