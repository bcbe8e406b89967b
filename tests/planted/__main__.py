"""Plants every bug, or those that are named, and exits with 1 where a test does not notice one.

First each test has to pass as the tree is. Then one bug after the other is planted in a copy of
the tree, what its test needs is built, and the test has to fail, and to say why.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

from tests.servers import Kafka, Postgres, ZooKeeper

from . import run, tree
from .bug import KINDS, WITHOUT_SERVERS, Bug, Kind
from .bugs import BUGS

SERVERS = {"POSTGRES": Postgres, "KAFKA": Kafka, "ZOOKEEPER": ZooKeeper}


def main(names: Sequence[str]) -> int:
    unknown = set(names) - {bug.name for bug in BUGS}
    if unknown:
        print(f"no such bug: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    chosen = [bug for bug in BUGS if not names or bug.name in names]
    began = time.monotonic()
    wrong: list[str] = []
    with ExitStack() as stack:
        tree.make()
        if any(bug.caught_by.kind not in WITHOUT_SERVERS for bug in chosen):
            start_servers(stack)
        for kind in KINDS:
            of_kind = [bug for bug in chosen if bug.caught_by.kind == kind]
            if of_kind:
                wrong += plant_all(kind, of_kind)
    seconds = time.monotonic() - began
    print(f"{len(chosen) - len(wrong)} of {len(chosen)} bugs were caught in {seconds:.0f} s")
    for problem in wrong:
        print(problem, file=sys.stderr)
    return 1 if wrong else 0


def start_servers(stack: ExitStack) -> None:
    """Those that the environment does not name; they end with `stack`."""
    for name, server in SERVERS.items():
        variable = f"ONECOMMIT_TEST_{name}"
        if not os.environ.get(variable):
            started = stack.enter_context(server())
            address = started.dsn if isinstance(started, Postgres) else started.address
            os.environ[variable] = address


def plant_all(kind: Kind, bugs: Sequence[Bug]) -> list[str]:
    """What is wrong with these bugs, one line each at least."""
    tests = dict.fromkeys(bug.caught_by for bug in bugs)
    print(f"nothing planted: {len(tests)} {kind} tests have to pass", flush=True)
    run.build(kind)
    wrong = []
    fails_anyway = set()
    for test in tests:
        outcome = run.run(test)
        if not outcome.passed:
            fails_anyway.add(test)
            kept = run.log("nothing-planted", outcome.text)
            wrong.append(f"{test.name} fails although nothing is planted: {kept}")
    for bug in bugs:
        if bug.caught_by in fails_anyway:
            wrong.append(f"{bug.name}: not planted")
            continue
        began = time.monotonic()
        problem = plant(bug)
        seconds = time.monotonic() - began
        verdict = problem or f"caught by {bug.caught_by.name}"
        print(f"{bug.name:<32} {verdict.splitlines()[0]}  {seconds:.0f} s", flush=True)
        if problem:
            wrong.append(f"{bug.name}: {problem}")
    return wrong


def plant(bug: Bug) -> str | None:
    """None where the test notices; otherwise what happened instead."""
    try:
        with tree.planted(bug.edits):
            run.build(bug.caught_by.kind)
            outcome = run.run(bug.caught_by)
    except (tree.TreeError, run.RunError) as error:
        return str(error)
    kept = run.log(bug.name, outcome.text)
    if outcome.passed:
        return f"NOT CAUGHT by {bug.caught_by.name}: {bug.rule}"
    if bug.says not in outcome.text:
        return f"{bug.caught_by.name} fails, and does not say {bug.says!r}: {kept}"
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
