"""One commit for your databases and Kafka.

An application changes its database and publishes messages in one transaction, through its own
connection. A relay (`onecommit relay`) carries every committed message to Kafka exactly once, in
order per key, and none of those rolled back.

Importing this starts no thread and imports no database driver.
"""

from ._errors import (
    ConfigurationError,
    ConflictError,
    Error,
    FailedError,
    FencedError,
    InDoubt,
    InvalidError,
    RefusedError,
    UnclearError,
    UnreachableError,
)
from ._group import AsyncGroup, Group, GroupView, Member
from ._lock import AsyncLock, Lock
from ._message import Encoder, Headers, Message, MessageId, ReceivedMessage
from ._open import AsyncOnecommit, Onecommit, open, open_async  # noqa: A004
from ._outbox import AsyncOutbox, Outbox
from ._read import Messages, read
from ._transaction import AsyncTransaction, Transaction

__all__ = [
    "AsyncGroup",
    "AsyncLock",
    "AsyncOnecommit",
    "AsyncOutbox",
    "AsyncTransaction",
    "ConfigurationError",
    "ConflictError",
    "Encoder",
    "Error",
    "FailedError",
    "FencedError",
    "Group",
    "GroupView",
    "Headers",
    "InDoubt",
    "InvalidError",
    "Lock",
    "Member",
    "Message",
    "MessageId",
    "Messages",
    "Onecommit",
    "Outbox",
    "ReceivedMessage",
    "RefusedError",
    "Transaction",
    "UnclearError",
    "UnreachableError",
    "open",
    "open_async",
    "read",
]
