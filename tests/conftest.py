"""Which tests run beside each other under `pytest -n`.

Those of one file follow one another in one process, since they share servers that are started for
them. Crash points share nothing, so each goes where there is room, at the end, when the rest is
under way. Documents and examples use topics of the same names, and follow one another too.
"""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadScopeScheduling

SINGLE = "tests/e2e/test_crash_points.py"
SAME_TOPICS = ("tests/documents/", "tests/examples/")


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
    """By what tests share."""

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(SAME_TOPICS):
            return "documents and examples"
        return nodeid if nodeid.startswith(SINGLE) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Scheduling:
    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.nodeid.startswith(SINGLE))
