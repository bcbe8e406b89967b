"""Relays and servers are killed, paused and cut off at random; `make soak` does it for longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from .random_run import run

SECONDS = 20.0


@pytest.mark.parametrize("seed", [1])
def test_nothing_is_lost_doubled_or_reordered(seed: int, tmp_path: Path) -> None:
    run(seed, SECONDS, tmp_path)
