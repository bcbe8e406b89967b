"""What can go wrong: one exception class for each kind, the same kinds as in Rust.

Errors of the caller's own database driver pass through unchanged, except where the outbox's tables
are missing, of another version, or not to be written.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any, ClassVar

from ._native.error import RETRIABLE


class Error(Exception):
    """The base of all of Onecommit's errors; what is raised is always one of its subclasses.

    `str()` says what was being done, what is wrong, where, and why. `__cause__` is the error behind
    it. It can be pickled.
    """

    kind: ClassVar[str]
    """What the caller can do about it, in one word."""
    retriable: ClassVar[bool]
    """Whether the very same call may succeed later without anybody changing anything."""

    message: str
    """What is wrong and what to do, without operation, context and cause."""
    operation: str
    """What was being done."""
    context: dict[str, str]
    """Where it happened: names and values, innermost first."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Takes from Rust what a kind means."""
        super().__init_subclass__(**arguments)
        cls.retriable = RETRIABLE[cls.kind]

    def __init__(
        self, message: str, operation: str, context: Mapping[str, str] | None = None
    ) -> None:
        """The message says what is wrong, the operation what was being done."""
        super().__init__(message)
        self.message = message
        self.operation = operation
        self.context = dict(context or {})

    def __str__(self) -> str:
        """Operation, message, context and causes, in one line."""
        text = f"{self.operation}: {self.message}"
        if self.context:
            text += f" ({', '.join(f'{name}: {value}' for name, value in self.context.items())})"
        return ": ".join([text, *_causes(self)])

    def __reduce__(self) -> tuple[Any, ...]:
        """Keeps the cause, or its text where it can't be pickled itself."""
        cause = self.__cause__
        try:
            pickle.dumps(cause)
        except Exception:
            cause = RuntimeError(str(cause))
        if len(causes := _causes(self)) > 1:
            # What an exception was caused by is not pickled with it.
            cause = RuntimeError(": ".join(causes))
        return _restore, (type(self), self.message, self.operation, self.context, cause)


def _causes(error: BaseException) -> list[str]:
    """What each cause says, in a line."""
    said: list[str] = []
    cause = error.__cause__
    while cause is not None:
        line = (str(cause).splitlines() or [type(cause).__name__])[0]
        # Some have their own cause in their text.
        if not said or line not in said[-1]:
            said.append(line)
        # One of ours has said all of its own.
        cause = None if isinstance(cause, Error) else cause.__cause__
    return said


def _restore(
    cls: type[Error],
    message: str,
    operation: str,
    context: dict[str, str],
    cause: BaseException | None,
) -> Error:
    error = cls(message, operation, context)
    error.__cause__ = cause
    return error


class InvalidError(Error):
    """What was passed in can never be accepted: change it."""

    kind = "invalid"


class ConfigurationError(Error):
    """The configuration is wrong or incomplete, or `onecommit init` has not run: change that."""

    kind = "configuration"


class UnreachableError(Error):
    """A server can't be reached or is not ready: the same call may succeed later."""

    kind = "unreachable"


class RefusedError(Error):
    """Stopped in order to protect data; a person has to look. Nothing was touched."""

    kind = "refused"


class FencedError(Error):
    """Another relay or node has taken over: what was held is lost, and may be taken again."""

    kind = "fenced"


class ConflictError(Error):
    """Rolled back for another transaction's sake, or a lock was not free in time: run it again."""

    kind = "conflict"


class InDoubt(Error):  # noqa: N818
    """It is not known whether a transaction is committed: don't run it again blindly."""

    kind = "in_doubt"

    @property
    def transaction_id(self) -> str:
        """The transaction's id, by which its outcome can be asked for."""
        return self.context.get("transaction", "")


class UnclearError(Error):
    """It is not known whether it took effect; what is stored has to be read again."""

    kind = "unclear"


class FailedError(Error):
    """Anything else that failed."""

    kind = "failed"


BY_KIND: dict[str, type[Error]] = {cls.kind: cls for cls in Error.__subclasses__()}
