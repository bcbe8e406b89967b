"""`make soak`: one run, as long as it is told, with the seed that it is given or one by chance."""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
from pathlib import Path

from . import run


def main() -> None:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=900)
    given = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if given.seed is None else given.seed
    folder = Path(tempfile.mkdtemp(prefix="onecommit-soak-"))
    print(f"logs are in {folder}", flush=True)
    try:
        run(seed, given.seconds, folder)
    except AssertionError as error:
        sys.exit(str(error))


main()
