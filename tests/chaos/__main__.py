"""`make chaos`: every step with every fault, and then faults at random for so many seconds."""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.e2e.random_run.journal import Journal

from .at_random import play_at_random
from .play import faults_of, play_step
from .servers import WholeSet
from .steps import all_steps

ALL, RANDOM = ",", "random"


ONLY = "a part of a step's name, a comma, and a part of a fault's; or `random`"


def main() -> None:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--only", default=ALL, help=ONLY)
    given = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if given.seed is None else given.seed
    folder = Path(tempfile.mkdtemp(prefix="onecommit-chaos-"))
    journal = Journal()
    journal.note(f"seed {seed}; logs are in {folder}")
    try:
        with ExitStack() as stack:
            servers = WholeSet(stack)
            journal.note("servers are up")
            if given.only != RANDOM:
                every_step(servers, given.only, seed, folder, journal)
            if given.only in (ALL, RANDOM):
                play_at_random(servers, seed, given.seconds, folder, journal)
            journal.note(f"clean: {dict(sorted(journal.happened.items()))}")
    except Exception as error:
        again = f"make chaos SEED={seed} SECONDS={given.seconds:.0f} ONLY={given.only}"
        sys.exit(f"seed {seed} failed; run it again with: {again}\n{journal.tail()}\n{error}")


def every_step(servers: WholeSet, only: str, seed: int, folder: Path, journal: Journal) -> None:
    step_part, _, fault_part = only.partition(",")
    for step in all_steps():
        faults = [fault for fault in faults_of(step) if fault_part in fault]
        if step_part in str(step) and faults:
            play_step(servers.town, step, faults, seed, folder, journal)


main()
