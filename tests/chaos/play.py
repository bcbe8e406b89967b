"""All cases of a step, one behind the other, in a bank that is judged by what Kafka has, too."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.e2e.bank import Bank
from tests.e2e.random_run.journal import Journal

from .case import Case
from .faults import FAULTS, fits
from .steps import ZOOKEEPER, Step
from .town import BILLING, Town


def faults_of(step: Step) -> list[str]:
    return [name for name, fault in FAULTS.items() if fits(fault, step)]


def play_step(
    town: Town, step: Step, faults: Sequence[str], seed: int, folder: Path, journal: Journal
) -> None:
    """Plays one case for each fault, and judges."""
    place = folder / f"{step.name}-{step.log}"
    place.mkdir()
    has_zookeeper = step.log == ZOOKEEPER
    bank = Bank(town.servers, place, zookeeper=has_zookeeper, billing=town.databases[BILLING].dsn)
    try:
        for fault in faults:
            case = Case(town, bank, step, fault)
            journal.note(f"{case} begins")
            journal.note(f"{case}: {case.play(random.Random(f'{seed} {case}'))}")
            journal.count(fault)
        bank.installation.finish(bank.installation.relay(), at_least=len(faults))
    finally:
        bank.close()
    # Of a failed one it tells why.
    shutil.rmtree(place)
