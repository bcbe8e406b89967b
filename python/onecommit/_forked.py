"""Blocks that a forked child leaves: what was opened is its parent's, and stays as it is."""

from __future__ import annotations

from typing import Protocol

from ._errors import InvalidError


class _Opened(Protocol):
    def expect_own_process(self) -> None: ...


def is_own(opened: _Opened, error: BaseException | None) -> bool:
    """Whether the block that is left, by `error` where there is one, is this process's own.

    In a forked child raises InvalidError, unless that would hide what ends the block there.
    """
    try:
        opened.expect_own_process()
    except InvalidError:
        if error is None:
            raise
        return False
    return True
