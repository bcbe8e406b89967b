"""A `with` over one or several servers: they run inside it, and are gone behind it.

Promises that nothing is left where the start itself fails.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for the type checker alone: at run time there is no Python package
    from typing_extensions import Self


class Started(ABC):
    """What `start` starts and `close` ends."""

    @abstractmethod
    def start(self) -> None:
        """Returns when it answers."""

    @abstractmethod
    def close(self) -> None:
        """Ends it for good; also what only half started."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
